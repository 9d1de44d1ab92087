//! Listening sockets that whoever started this process has opened: systemd's socket activation
//! (sd_listen_fds(3)). They stay open when this process ends, and connections wait in them for the
//! next one.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use crate::shard::adopt;

/// The first of them; the others follow.
const FIRST: RawFd = 3;
/// Their names: FileDescriptorName= of the socket units.
const XKS: &str = "xks";
const ADMIN: &str = "admin";

/// What was passed.
#[derive(Default)]
pub(super) struct Passed {
    /// For the XKS API; none, or one, or several on the same address.
    pub(super) xks: Vec<Arc<Socket>>,
    pub(super) admin: Option<TcpListener>,
}

impl Passed {
    /// Takes them. To be called once, before anything opens a file.
    ///
    /// # Errors
    /// When there is one that nobody would serve.
    pub(super) fn take() -> Result<Passed, String> {
        let variable = |name| env::var(name).unwrap_or_default();
        // For another process: a parent's, which left its environment as it was.
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Ok(Passed::default());
        }
        let (count, given) = (variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
        let names = names(&count, &given)?;
        let mut passed = Passed::default();
        for (descriptor, name) in (FIRST..).zip(names) {
            let failed = |e| format!("socket {descriptor} ({name}) that was passed: {e}");
            let socket = adopt(descriptor).map_err(failed)?;
            if name == XKS {
                passed.xks.push(Arc::new(socket));
            } else {
                socket.set_nonblocking(false).map_err(failed)?;
                passed.admin = Some(OwnedFd::from(socket).into());
            }
        }
        Ok(passed)
    }

    /// Whether each of them is what the configuration says, and has somebody to serve it.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn fits(
        &self,
        listen: SocketAddr,
        admin: Option<SocketAddr>,
        shards: usize,
    ) -> Result<(), String> {
        if self.xks.len() > shards {
            return Err(format!(
                "{} sockets named {XKS:?} were passed, and there are {shards} shards: at most one \
                 for each; the others' connections would wait for ever",
                self.xks.len()
            ));
        }
        for socket in &self.xks {
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            same("server.listen", Some(listen), address)?;
        }
        match &self.admin {
            Some(socket) => same("admin.listen", admin, socket.local_addr().ok()),
            None => Ok(()),
        }
    }
}

fn same(key: &str, wanted: Option<SocketAddr>, is: Option<SocketAddr>) -> Result<(), String> {
    let said = |address: Option<SocketAddr>| {
        address.map_or("nothing".to_owned(), |address| address.to_string())
    };
    let fits = wanted.zip(is).is_some_and(|(wanted, is)| {
        wanted.ip() == is.ip() && (wanted.port() == 0 || wanted.port() == is.port())
    });
    if fits {
        return Ok(());
    }
    Err(format!(
        "{key} is {}, and the socket that was passed for it listens on {}: make ListenStream= of \
         the socket unit the same",
        said(wanted),
        said(is)
    ))
}

/// The name of each, in order.
fn names<'a>(count: &str, names: &'a str) -> Result<Vec<&'a str>, String> {
    let count: usize =
        count.parse().map_err(|_| format!("LISTEN_FDS is no number: {}", count.escape_debug()))?;
    let names: Vec<&str> = if names.is_empty() { Vec::new() } else { names.split(':').collect() };
    let rule = format!("FileDescriptorName= of a socket unit must be {XKS} or {ADMIN}");
    if names.len() != count {
        return Err(format!("{count} sockets were passed with {} names: {rule}", names.len()));
    }
    if let Some(unknown) = names.iter().find(|name| ![XKS, ADMIN].contains(*name)) {
        let unknown = unknown.escape_debug();
        return Err(format!("a socket of the name \"{unknown}\" was passed: {rule}"));
    }
    if names.iter().filter(|name| **name == ADMIN).count() > 1 {
        return Err(format!("several sockets named {ADMIN} were passed, and one is served"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_name_that_is_known() {
        assert_eq!(names("3", "xks:admin:xks"), Ok(vec!["xks", "admin", "xks"]));
        assert_eq!(names("0", ""), Ok(vec![]));
        for (count, given, why) in [
            ("x", "xks", "LISTEN_FDS is no number"),
            ("2", "xks", "2 sockets were passed with 1 names"),
            ("1", "", "with 0 names: FileDescriptorName="),
            ("1", "xksd.socket", "\"xksd.socket\" was passed: FileDescriptorName="),
            ("2", "admin:admin", "several sockets named admin"),
        ] {
            let refused = names(count, given).expect_err(given);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_socket_of_another_address_or_without_a_shard_is_refused() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let xks = vec![Arc::new(Socket::from(socket.try_clone().unwrap()))];
        let passed = Passed { xks, admin: Some(socket) };
        let any_port = "127.0.0.1:0".parse().unwrap();
        assert_eq!(passed.fits(any_port, Some(address), 1), Ok(()));
        let refused = |listen, admin, shards| passed.fits(listen, admin, shards).unwrap_err();
        assert!(refused(any_port, Some(address), 0).contains("at most one for each"));
        assert!(refused(address, None, 1).contains("admin.listen is nothing"));
        let other = "127.0.0.2:0".parse().unwrap();
        assert!(refused(other, Some(address), 1).contains("server.listen is 127.0.0.2:0, and"));
    }
}
