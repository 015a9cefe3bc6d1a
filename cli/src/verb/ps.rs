//! `pontoon ps`: an app's servos.

use pontoon_api::Servo;

use crate::args::{AppArg, Format};
use crate::output::{self, age, table};
use crate::session::{Session, app_of};

/// Prints them; what the app waits for goes to stderr.
pub async fn run(session: &Session, app: &AppArg) -> anyhow::Result<()> {
    let app = app_of(app)?;
    let servos = session.client.servos(&app).await?;
    output::print(session.format, &servos, |servos| list(servos))?;
    if session.format == Format::Table {
        for waiting in session.client.app(&app).await?.waiting {
            output::note(&format!("waiting: {waiting}"));
        }
    }
    Ok(())
}

fn list(servos: &[Servo]) -> String {
    let header =
        ["SERVO", "PROCESS", "RELEASE", "HOST", "SITE", "STATE", "ROUTED", "MEMORY", "RESTARTS", "AGE", "EXIT"];
    table(header, servos.iter().map(row))
}

fn row(servo: &Servo) -> [String; 11] {
    let process = match &servo.one_off {
        Some(command) => format!("run: {command}"),
        None => servo.process.to_string(),
    };
    let enforced = if servo.limits_enforced { "" } else { " (not enforced)" };
    let exit = servo.exit.as_ref().map(|exit| format!("{} ({})", exit.code, exit.reason));
    [
        servo.id.to_string(),
        process,
        servo.release.to_string(),
        servo.host.to_string(),
        servo.site.to_string(),
        servo.state.clone(),
        if servo.routed { "yes" } else { "no" }.to_owned(),
        format!("{}{enforced}", servo.memory),
        servo.restarts.to_string(),
        age(servo.created_at),
        exit.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_api::Exit;
    use pontoon_kit::clock;
    use pontoon_model::{MemoryBytes, ServoId};

    use super::*;

    fn servo() -> Servo {
        Servo {
            id: ServoId(12),
            app: "guestbook".parse().unwrap(),
            process: "web".parse().unwrap(),
            release: "v3".parse().unwrap(),
            host: "host-east".parse().unwrap(),
            site: "dev.east".parse().unwrap(),
            state: "ready".into(),
            routed: true,
            address: Some("127.0.0.1:20001".into()),
            memory: MemoryBytes::mib(256),
            limits_enforced: true,
            restarts: 0,
            created_at: clock::unix_millis() - 5_000_000,
            exit: None,
            one_off: None,
        }
    }

    #[test]
    fn servos_one_off_commands_and_exits_are_shown() {
        let exit = Exit { code: 137, reason: "killed by signal 9".into(), last_lines: Vec::new() };
        let one_off = Servo {
            id: ServoId(13),
            state: "exited".into(),
            routed: false,
            limits_enforced: false,
            exit: Some(exit),
            one_off: Some("ls -l".into()),
            ..servo()
        };
        expect![[r#"
            SERVO   PROCESS      RELEASE   HOST        SITE       STATE    ROUTED   MEMORY                RESTARTS   AGE   EXIT
            s12     web          v3        host-east   dev.east   ready    yes      256M                  0          83m   -
            s13     run: ls -l   v3        host-east   dev.east   exited   no       256M (not enforced)   0          83m   137 (killed by signal 9)"#]]
        .assert_eq(&list(&[servo(), one_off]));
    }
}
