//! The round-trip time of a TCP connection. `unsafe` is here because the standard library does not
//! ask for it, and neither does a crate that is used.

use std::os::fd::AsRawFd;
use std::time::Duration;

/// The round-trip time of a TCP connection as the kernel measures it, from its handshake on
/// (`tcpi_rtt` of `TCP_INFO`, tcp(7)); `None` where it does not say.
pub(super) fn round_trip_time(connection: &impl AsRawFd) -> Option<Duration> {
    let mut about = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: room for as many bytes as the kernel is told of.
    let got = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            about.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    // SAFETY: numbers only, all of them zero or what the kernel has written.
    let about = unsafe { about.assume_init() };
    (got == 0 && about.tcpi_rtt > 0).then(|| Duration::from_micros(about.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_has_a_round_trip_time_from_its_beginning() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let time = round_trip_time(&accepted).unwrap();
        assert!(time < Duration::from_secs(1), "microseconds are taken for more: {time:?}");
        assert_eq!(round_trip_time(&UdpSocket::bind("127.0.0.1:0").unwrap()), None);
    }
}
