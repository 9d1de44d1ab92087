//! One request of each kind before the run, so that wrong settings are told at once and there is
//! something to decrypt; and after the run a decrypt of every ciphertext that is left, so that no
//! run ends with ciphertexts that cannot be opened.

use std::time::Instant;

use futures_rustls::client::TlsStream;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;

use super::connection::{Connector, within};
use super::dispatcher::Dispatcher;
use super::transport::Failure;
use crate::limits::{PRIMED_CIPHERTEXTS, SETUP_TIME_MAX};
use crate::workload::answer;
use crate::workload::request::Call;
use crate::workload::{Mix, Outcome};

/// Asks every key of every key store, and each call that the mix has.
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
    calls.push((Call::Health, usize::from(health > 0)));
    for (call, count) in calls {
        for _ in 0..count {
            let failed = |why: String| {
                Err(Failure::Setup(format!(
                    "{}: the first {}{why}",
                    connector.address(),
                    call.name()
                )))
            };
            match exchange(dispatcher, connector, &mut stream, call).await {
                Ok((Outcome::Right, _)) => {}
                Ok((Outcome::Wrong(what), _)) => return Err(Failure::Wrong(what)),
                Ok((Outcome::Error(name), Some(message))) => {
                    return failed(format!(" was answered {name}: {message}"));
                }
                Ok((Outcome::Error(name), None)) => return failed(format!(" was answered {name}")),
                Err(why) => return failed(format!(": {why}")),
            }
        }
    }
    let _ = within(SETUP_TIME_MAX, stream.close()).await;
    Ok(())
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

/// What the answer came to, and what the proxy says of an error.
async fn exchange(
    dispatcher: &Dispatcher,
    connector: &Connector,
    stream: &mut TlsStream<TcpStream>,
    call: Call,
) -> Result<(Outcome, Option<String>), String> {
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
            return Ok((
                dispatcher.workload.borrow_mut().check(&sent, &answer),
                answer::error_message(&answer.body),
            ));
        }
    }
}
