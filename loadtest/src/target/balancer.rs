//! A load balancer between this tool and the proxy.

use std::net::SocketAddr;

use crate::limits::NOTE_CHARS_MAX;

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// As it was named.
    pub name: String,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens on this machine.
    pub listen: Option<SocketAddr>,
}

impl Balancer {
    /// What listens at an address.
    pub(super) fn at(listen: SocketAddr) -> Balancer {
        Balancer { name: listen.to_string(), pid: None, listen: Some(listen) }
    }

    /// Reads a process id, an address or a name.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(text: &str) -> Result<Balancer, String> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > NOTE_CHARS_MAX {
            return Err(format!(
                "a process id, ADDR:PORT, or a name of up to {NOTE_CHARS_MAX} characters"
            ));
        }
        if let Ok(pid) = text.parse() {
            return Ok(Balancer { name: format!("process {pid}"), pid: Some(pid), listen: None });
        }
        Ok(match text.parse() {
            Ok(listen) => Balancer::at(listen),
            Err(_) => Balancer { name: text.to_owned(), pid: None, listen: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_is_a_process_an_address_or_a_name() {
        let parse = |text: &str| Balancer::parse(text).unwrap();
        assert_eq!((parse("123").pid, parse("123").listen), (Some(123), None));
        assert_eq!(parse("127.0.0.1:443"), Balancer::at("127.0.0.1:443".parse().unwrap()));
        assert_eq!((parse(" our NLB ").name.as_str(), parse("our NLB").pid), ("our NLB", None));
        let longest = "x".repeat(NOTE_CHARS_MAX);
        assert_eq!(parse(&longest).name, longest);
        assert!(Balancer::parse(&format!("{longest}x")).is_err() && Balancer::parse(" ").is_err());
    }
}
