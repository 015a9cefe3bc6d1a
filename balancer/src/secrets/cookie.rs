//! The cookie that names the servo of a client's session, signed so that nobody can choose a servo.

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderValue, header};
use pontoon_model::{AppName, Secret, ServoId};
use ring::hmac;

/// Its name.
const COOKIE: &str = "pontoon_servo";

/// Signs with the first, checks with all. Without any there are no sessions: cookies that nobody signed are not believed.
#[derive(Debug)]
pub(crate) struct CookieKeys(Vec<hmac::Key>);

impl CookieKeys {
    pub(super) fn new(keys: &[Secret]) -> Self {
        // Its own use of a key that has two.
        let derive = |secret: &Secret| {
            let of = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&of, b"pontoon servo cookie").as_ref())
        };
        Self(keys.iter().map(derive).collect())
    }

    /// The servo that the cookie of a request names for this app, if we signed it.
    pub(crate) fn read(&self, headers: &HeaderMap, app: &AppName) -> Option<ServoId> {
        self.read_lines(headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes), app)
    }

    /// The same, of the values of its `Cookie` headers.
    pub(crate) fn read_lines<'a>(&self, lines: impl Iterator<Item = &'a [u8]>, app: &AppName) -> Option<ServoId> {
        let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find_map(|(name, value)| (name == COOKIE).then(|| self.check(value, app)).flatten())
    }

    /// The line that sets the cookie. `secure`: only to be sent over TLS.
    pub(crate) fn write(&self, servo: ServoId, app: &AppName, secure: bool) -> Option<HeaderValue> {
        let tag = hmac::sign(self.0.first()?, &signed(servo, app));
        let tag = BASE64URL_NOPAD.encode(tag.as_ref());
        let secure = if secure { "; Secure" } else { "" };
        let line = format!("{COOKIE}={}.{tag}; Path=/; HttpOnly; SameSite=Lax{secure}", servo.0);
        // Digits and letters only.
        HeaderValue::try_from(line).ok()
    }

    fn check(&self, value: &str, app: &AppName) -> Option<ServoId> {
        let (id, tag) = value.split_once('.')?;
        let servo = ServoId(id.parse().ok()?);
        let tag = BASE64URL_NOPAD.decode(tag.as_bytes()).ok()?;
        let ours = |key: &hmac::Key| hmac::verify(key, &signed(servo, app), &tag).is_ok();
        self.0.iter().any(ours).then_some(servo)
    }
}

fn signed(servo: ServoId, app: &AppName) -> Vec<u8> {
    [&servo.0.to_be_bytes(), app.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(all: &[&str]) -> CookieKeys {
        CookieKeys::new(&all.iter().map(|&key| Secret(key.to_owned())).collect::<Vec<_>>())
    }

    fn sent(line: &HeaderValue) -> HeaderMap {
        let pair = line.to_str().unwrap().split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b"));
        headers.append(header::COOKIE, HeaderValue::try_from(format!("theme=dark; {pair}; x")).unwrap());
        headers
    }

    #[test]
    fn a_cookie_of_ours_is_believed_until_its_key_is_gone() {
        let app = AppName::new("shop").unwrap();
        let line = keys(&["one"]).write(ServoId(7), &app, true).unwrap();
        assert!(line.to_str().unwrap().ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{line:?}");
        let headers = sent(&line);
        assert_eq!(keys(&["two", "one"]).read(&headers, &app), Some(ServoId(7)));
        assert_eq!(keys(&["two"]).read(&headers, &app), None);
        assert_eq!(keys(&["one"]).read(&headers, &AppName::new("other").unwrap()), None, "it is one app's");
        assert_eq!(keys(&[]).read(&headers, &app), None);
        assert!(keys(&[]).write(ServoId(7), &app, false).is_none());
    }

    #[test]
    fn a_cookie_that_was_changed_is_not_believed() {
        let (app, keys) = (AppName::new("shop").unwrap(), keys(&["one"]));
        let line = keys.write(ServoId(7), &app, false).unwrap();
        let value = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap().1;
        assert_eq!(keys.check(value, &app), Some(ServoId(7)));
        let other = value.replacen('7', "8", 1);
        for bad in [other.as_str(), &value[..value.len() - 2], &format!("{value}AA"), "7.", "7", ".", "", "x.y"] {
            assert_eq!(keys.check(bad, &app), None, "{bad:?}");
        }
    }
}
