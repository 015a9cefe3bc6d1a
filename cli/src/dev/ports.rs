//! Which ports `pontoon dev` takes, and that they are free.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, bail};

use super::DevArgs;
use crate::Usage;

/// First balancer.
pub(super) const BALANCER: u16 = 8000;
/// First controller's REST.
pub(super) const REST: u16 = 7700;
/// First controller's gRPC.
const GRPC: u16 = 7710;

/// Addresses on loopback.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) balancers: [SocketAddr; 2],
    /// For HTTPS, if there shall be any.
    pub(super) tls: Option<[SocketAddr; 2]>,
    pub(super) rest: [SocketAddr; 3],
    pub(super) grpc: [SocketAddr; 3],
}

impl Ports {
    /// From the flags. `kept`: the controllers' gRPC addresses at the first start on this data directory.
    pub(super) fn choose(args: &DevArgs, kept: Option<&[SocketAddr]>) -> Result<Self, Usage> {
        let kept = kept.and_then(<[SocketAddr]>::first).map(SocketAddr::port);
        let grpc = match (args.grpc_port, kept) {
            (Some(wanted), Some(kept)) if wanted != kept => {
                return Err(Usage(format!(
                    "the controllers of this data directory know each other at port {kept} and following: \
                     leave --grpc-port {wanted} away, or give another --data-dir"
                )));
            }
            (wanted, kept) => wanted.or(kept).unwrap_or(GRPC),
        };
        let ports = Self {
            balancers: consecutive("--port", args.port)?,
            tls: args.tls_port.map(|first| consecutive("--tls-port", first)).transpose()?,
            rest: consecutive("--rest-port", args.rest_port)?,
            grpc: consecutive("--grpc-port", grpc)?,
        };
        ports.check_distinct()?;
        Ok(ports)
    }

    /// Fails with the first port that another program holds, and the flag that moves it.
    pub(super) fn check_free(&self) -> anyhow::Result<()> {
        for (flag, address) in self.all() {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                    "port {} is in use by another program: stop that, or choose other ports with {flag}",
                    address.port()
                ),
                Err(error) => return Err(error).with_context(|| format!("cannot listen on {address} ({flag})")),
            }
        }
        Ok(())
    }

    /// Of each balancer.
    pub(super) fn balancers_tls(&self) -> [Option<SocketAddr>; 2] {
        self.tls.map_or([None; 2], |all| all.map(Some))
    }

    fn check_distinct(&self) -> Result<(), Usage> {
        let all: Vec<_> = self.all().collect();
        for (at, (flag, address)) in all.iter().enumerate() {
            if let Some((other, _)) = all[..at].iter().find(|(_, earlier)| earlier == address) {
                return Err(Usage(format!("{other} and {flag} both take port {}: move one of them", address.port())));
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let with = |flag: &'static str| move |address: &SocketAddr| (flag, *address);
        self.balancers
            .iter()
            .map(with("--port"))
            .chain(self.tls.iter().flatten().map(with("--tls-port")))
            .chain(self.rest.iter().map(with("--rest-port")))
            .chain(self.grpc.iter().map(with("--grpc-port")))
    }
}

fn consecutive<const N: usize>(flag: &str, first: u16) -> Result<[SocketAddr; N], Usage> {
    if first == 0 || usize::from(u16::MAX - first) < N - 1 {
        return Err(Usage(format!("{flag} {first}: this and the next {} ports must be from 1 to 65535", N - 1)));
    }
    Ok(std::array::from_fn(|at| SocketAddr::from((Ipv4Addr::LOCALHOST, first + at as u16))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::RuntimeArg;

    fn args(port: u16, rest_port: u16, grpc_port: Option<u16>) -> DevArgs {
        DevArgs { data_dir: None, runtime: RuntimeArg::Auto, port, tls_port: None, rest_port, grpc_port, deploy: None }
    }

    #[test]
    fn a_busy_port_is_named_with_its_flag() {
        // Three free ports in a row are not promised to anyone: one taken as the second balancer's is enough.
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = holder.local_addr().unwrap();
        let mut ports = Ports::choose(&args(BALANCER, REST, None), None).unwrap();
        ports.balancers[0] = busy;
        let error = ports.check_free().unwrap_err().to_string();
        assert!(error.contains(&busy.port().to_string()) && error.contains("--port"), "{error}");
    }

    #[test]
    fn ports_that_clash_with_each_other_or_the_range_are_refused() {
        for (args, part) in
            [(args(8000, 7709, None), "7710"), (args(65535, 7700, None), "65535"), (args(0, 7700, None), "--port 0")]
        {
            let error = Ports::choose(&args, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let tls = |first| DevArgs { tls_port: Some(first), ..args(8000, 7700, None) };
        let error = Ports::choose(&tls(8001), None).unwrap_err().to_string();
        assert!(error.contains("8001") && error.contains("--tls-port"), "{error}");
        assert_eq!(
            Ports::choose(&tls(8443), None).unwrap().balancers_tls()[1].map(|address| address.port()),
            Some(8444)
        );
    }

    #[test]
    fn grpc_ports_stay_as_at_the_first_start() {
        let kept = [SocketAddr::from((Ipv4Addr::LOCALHOST, 9000))];
        assert_eq!(Ports::choose(&args(8000, 7700, None), Some(&kept)).unwrap().grpc[2].port(), 9002);
        let error = Ports::choose(&args(8000, 7700, Some(9100)), Some(&kept)).unwrap_err().to_string();
        assert!(error.contains("9000") && error.contains("--data-dir"), "{error}");
    }
}
