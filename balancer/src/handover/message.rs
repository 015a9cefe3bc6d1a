//! What two processes of one balancer say to each other. Each may be of another version: variants are added at the end.

use pontoon_model::BalancerName;
use pontoon_proto::BalancerAck;
use serde::{Deserialize, Serialize};

/// From a process that starts, or from who wants the running one to start another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Give me your sockets.
    Take {
        /// Whose process it is: two balancers on one folder are a mistake.
        name: BalancerName,
    },
    /// All that may fail has been done: stop changing your table, and write it.
    Prepared,
    /// Connections are accepted: accept no more.
    Serving,
    /// The tables on disk have changed.
    Written,
    /// Start another process of yourself, and give way to it.
    Reload,
    /// As [`Self::Take`], and also those of ports ([`Purpose::Port`]), once I am prepared. An earlier version ends the connection,
    /// and is asked with [`Self::Take`] then; who asks with that may not know the purpose.
    TakeWithPorts {
        /// As there.
        name: BalancerName,
    },
}

/// From the running process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Told {
    /// Descriptors, which come with the message, and what each is.
    Sockets {
        /// In their order.
        purposes: Vec<Purpose>,
        /// Whether more follow.
        more: bool,
    },
    /// The table is on disk and changes no more; serve by it.
    Yours {
        /// How far the process is.
        ack: BalancerAck,
    },
    /// How far a process is that has given way.
    Ack(BalancerAck),
    /// No.
    Refused {
        /// Why not.
        why: String,
    },
    /// Another process serves.
    Reloaded {
        /// Its id.
        process: u32,
    },
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// A listening socket for HTTP.
    Plain,
    /// One for HTTPS.
    Tls,
    /// That of `/healthz` and `/metrics`.
    Admin,
    /// The folder's lock.
    Lock,
    /// A listening socket for other balancers.
    Peer,
    /// One of a process that does not speak HTTP.
    Port,
}

pontoon_model::wire! {
    804, 1 => Asked;
    805, 1 => Told;
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_model::RouteVersion;
    use pontoon_model::wire::{Wire, encode};

    fn hex(value: &impl Wire) -> String {
        encode(value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Golden: the process that runs was started from an earlier version.
    #[test]
    fn golden_bytes() {
        let name: BalancerName = "b1".parse().unwrap();
        let take_all = Asked::TakeWithPorts { name: name.clone() };
        let asked = [Asked::Take { name }, Asked::Prepared, Asked::Serving, Asked::Written, Asked::Reload, take_all];
        let ack = BalancerAck { applied: RouteVersion(7), drained: RouteVersion(6) };
        let purposes = vec![Purpose::Plain, Purpose::Tls, Purpose::Admin, Purpose::Lock];
        let later = vec![Purpose::Peer, Purpose::Port];
        let told = [
            Told::Sockets { purposes, more: true },
            Told::Yours { ack },
            Told::Ack(ack),
            Told::Refused { why: "no".to_owned() },
            Told::Reloaded { process: 9 },
            Told::Sockets { purposes: later, more: false },
        ];
        let lines: Vec<String> = asked.iter().map(hex).chain(told.iter().map(hex)).collect();
        expect_test::expect![[r#"
            b7240301000e000000ec2933b00000000002000000000000006231
            b72403010004000000261c004f01000000
            b724030100040000001f95222d02000000
            b72403010004000000a73f67f003000000
            b724030100040000006d8767e904000000
            b7240301000e000000435fc5b10500000002000000000000006231
            b7250301001d000000b7a2fa540000000004000000000000000000000001000000020000000300000001
            b72503010014000000304fe6d80100000007000000000000000600000000000000
            b72503010014000000f75722810200000007000000000000000600000000000000
            b7250301000e00000002ffec3e0300000002000000000000006e6f
            b72503010008000000a837cb680400000009000000
            b72503010015000000709a2651000000000200000000000000040000000500000000"#]]
        .assert_eq(&lines.join("\n"));
    }
}
