//! `pontoon hosts`: the machines with an agent.

use pontoon_api::Host;

use crate::output::{self, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.hosts().await?, |hosts| list(hosts))?)
}

fn list(hosts: &[Host]) -> String {
    let row = |host: &Host| {
        [
            host.name.to_string(),
            host.site.to_string(),
            host.state.clone(),
            host.runtime.clone(),
            format!("{}/{}", host.memory_used, host.memory),
            host.cpu.to_string(),
            host.servos.to_string(),
        ]
    };
    table(["NAME", "SITE", "STATE", "RUNTIME", "MEMORY", "CPU", "SERVOS"], hosts.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_model::{CpuMillis, MemoryBytes};

    use super::*;

    #[test]
    fn hosts_show_used_and_whole_memory() {
        let host = Host {
            name: "host-east".parse().unwrap(),
            site: "dev.east".parse().unwrap(),
            state: "up".into(),
            runtime: "docker".into(),
            memory: MemoryBytes::mib(4096),
            memory_used: MemoryBytes::mib(512),
            cpu: CpuMillis(2000),
            servos: 2,
        };
        expect![[r#"
            NAME        SITE       STATE   RUNTIME   MEMORY    CPU   SERVOS
            host-east   dev.east   up      docker    512M/4G   2.0   2"#]]
        .assert_eq(&list(&[host]));
    }
}
