//! One request of each kind before the run, so that wrong settings are reported at once and there
//! is something to decrypt; and after the run a decrypt of every ciphertext that is left, so that
//! no run ends with ciphertexts that cannot be opened.

use std::time::Instant;

use futures_rustls::client::TlsStream;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;

use super::connection::{Connector, within};
use super::dispatcher::Dispatcher;
use super::transport::Failure;
use crate::limits::{PRIMED_CIPHERTEXTS, SETUP_TIME_MAX};
use crate::workload::answer;
use crate::workload::identity::Identity;
use crate::workload::request::Call;
use crate::workload::{Mix, Outcome};

/// Asks every key of every key store, and each call that the mix has; and in any case who the proxy
/// is.
pub(super) async fn ask_once(
    dispatcher: &Dispatcher,
    connector: &Connector,
    mix: &Mix,
) -> Result<(), Failure> {
    let mut stream = connector.connect(dispatcher).await.map_err(Failure::Setup)?;
    let routes = dispatcher.workload.borrow().routes();
    let [encrypt, decrypt, metadata, health] = mix.0;
    let mut calls = Vec::new();
    if encrypt + decrypt > 0 {
        calls.push((Call::Encrypt, routes.max(PRIMED_CIPHERTEXTS)));
        calls.push((Call::Decrypt, routes));
    }
    calls.push((Call::Metadata, if metadata > 0 { routes } else { 0 }));
    for (call, count) in calls {
        for _ in 0..count {
            must_succeed(dispatcher, connector, &mut stream, call).await?;
        }
    }
    // Last, because a proxy may break the connection over it.
    let asked = must_succeed(dispatcher, connector, &mut stream, Call::Health).await;
    match asked {
        Ok(body) => dispatcher.stats.borrow_mut().identity = Identity::of(&body),
        Err(failure) if health > 0 => return Err(failure),
        // Nobody asked for it: the report will not say who answered.
        Err(_) => {}
    }
    let _ = within(SETUP_TIME_MAX, stream.close()).await;
    Ok(())
}

/// Gives the body of the right answer.
async fn must_succeed(
    dispatcher: &Dispatcher,
    connector: &Connector,
    stream: &mut TlsStream<TcpStream>,
    call: Call,
) -> Result<Vec<u8>, Failure> {
    let why = match exchange(dispatcher, connector, stream, call).await {
        Ok((Outcome::Right, body)) => return Ok(body),
        Ok((Outcome::Wrong(what), _)) => return Err(Failure::Wrong(what)),
        Ok((Outcome::Error(name), body)) => {
            let message = answer::error_message(&body).map(|message| format!(": {message}"));
            format!(" was answered {name}{}", message.unwrap_or_default())
        }
        Err(why) => format!(": {why}"),
    };
    let (address, name) = (connector.address(), call.name());
    Err(Failure::Setup(format!("{address}: the first {name}{why}")))
}

/// Decrypts all that the worker still knows.
pub(super) async fn decrypt_what_is_left(dispatcher: &Dispatcher, connector: &Connector) {
    let count = dispatcher.workload.borrow().ciphertexts();
    if count == 0 {
        return;
    }
    let deadline = Instant::now() + SETUP_TIME_MAX;
    let ended = async {
        let mut stream = connector.connect(dispatcher).await?;
        for _ in 0..count {
            if Instant::now() >= deadline {
                break;
            }
            let (outcome, _) = exchange(dispatcher, connector, &mut stream, Call::Decrypt).await?;
            let mut stats = dispatcher.stats.borrow_mut();
            match outcome {
                Outcome::Right => stats.closing_decrypts += 1,
                Outcome::Wrong(what) => stats.wrong(what),
                Outcome::Error(name) => stats.error(&format!("{name}, decrypting after the run")),
            }
        }
        let _ = within(SETUP_TIME_MAX, stream.close()).await;
        Ok::<(), String>(())
    };
    if let Err(why) = ended.await {
        dispatcher.stats.borrow_mut().error(&format!("{why}, decrypting after the run"));
    }
}

/// What the answer came to, and its body.
async fn exchange(
    dispatcher: &Dispatcher,
    connector: &Connector,
    stream: &mut TlsStream<TcpStream>,
    call: Call,
) -> Result<(Outcome, Vec<u8>), String> {
    let mut out = Vec::new();
    let sent = dispatcher.workload.borrow_mut().write(call, &mut out);
    let write = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    connector.within(write).await?;
    let (mut received, mut chunk) = (Vec::new(), vec![0; 8192]);
    loop {
        match connector.within(stream.read(&mut chunk)).await? {
            0 => return Err("the connection was closed".into()),
            n => received.extend_from_slice(&chunk[..n]),
        }
        if let Some(answer) = answer::first(&received)? {
            let outcome = dispatcher.workload.borrow_mut().check(&sent, &answer);
            return Ok((outcome, answer.body.into_owned()));
        }
    }
}
