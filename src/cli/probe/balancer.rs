//! The PROXY protocol header that a load balancer would send in front of the probe.

use std::net::{IpAddr, SocketAddr};

use crate::network::Network;
use crate::shard::proxy_protocol::{AWS_VPC_ENDPOINT_ID, SIGNATURE, TYPE_AWS};

/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Whether the probe speaks as a load balancer does, and what it says.
#[derive(Debug, Default)]
pub struct Balancer {
    /// It was asked for.
    pub wanted: bool,
    /// The proxy expects a header from these networks.
    pub networks: Vec<Network>,
    /// Through which VPC endpoint the connection is said to come.
    pub vpc_endpoint: Option<String>,
}

impl Balancer {
    /// The header for a connection from `client` to `proxy`, where one is to be sent.
    #[must_use]
    pub fn header(&self, client: SocketAddr, proxy: SocketAddr) -> Option<Vec<u8>> {
        let expected = self.networks.iter().any(|network| network.contains(client.ip()));
        if !self.wanted && self.vpc_endpoint.is_none() && !expected {
            return None;
        }
        let mut rest = Vec::new();
        for ip in [client.ip(), proxy.ip()] {
            match ip {
                IpAddr::V4(ip) => rest.extend(ip.octets()),
                IpAddr::V6(ip) => rest.extend(ip.octets()),
            }
        }
        rest.extend(client.port().to_be_bytes());
        rest.extend(proxy.port().to_be_bytes());
        if let Some(id) = &self.vpc_endpoint {
            rest.push(TYPE_AWS);
            rest.extend(length(1 + id.len()));
            rest.push(AWS_VPC_ENDPOINT_ID);
            rest.extend(id.as_bytes());
        }
        let family = if client.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 };
        let begin = [VERSION_AND_COMMAND, family];
        Some([SIGNATURE.as_slice(), &begin, &length(rest.len()), &rest].concat())
    }
}

/// Ids of endpoints are bounded long before this (`VPC_ENDPOINT_ID_CHARS_MAX`).
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::proxy_protocol::{Header, parse};

    #[test]
    fn the_proxy_reads_what_the_probe_writes() {
        for (client, proxy) in
            [("192.0.2.7:4711", "192.0.2.8:443"), ("[2001:db8::7]:4711", "[2001:db8::8]:443")]
        {
            let client: SocketAddr = client.parse().expect("an address");
            for vpc_endpoint in [None, Some("vpce-0123456789abcdef0".to_owned())] {
                let balancer = Balancer {
                    wanted: true,
                    vpc_endpoint: vpc_endpoint.clone(),
                    ..Balancer::default()
                };
                let header = balancer.header(client, proxy.parse().expect("an address"));
                assert_eq!(
                    parse(&header.expect("it was asked for")),
                    Ok(Header { client: Some(client), vpc_endpoint })
                );
            }
        }
    }

    #[test]
    fn a_header_is_sent_where_one_is_expected_and_not_elsewhere() {
        let networks = vec!["192.0.2.0/24".parse().expect("a network")];
        let balancer = Balancer { networks, ..Balancer::default() };
        let proxy = "192.0.2.8:443".parse().expect("an address");
        let from = |client: &str| balancer.header(client.parse().expect("an address"), proxy);
        assert!(from("192.0.2.7:4711").is_some());
        assert_eq!(from("198.51.100.7:4711"), None);
    }
}
