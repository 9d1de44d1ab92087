//! The admin listener: health for load balancers, metrics, status. Plain HTTP for a private
//! address; never the XKS API.

use std::net::TcpStream;
use std::sync::Arc;

use super::history::History;
use super::host::is_own_host;
use super::status::Status;
use super::{metrics, page};
use crate::control::connections::{self, Response};
use crate::control::movable_listener::Answer;
use crate::control::state::State;
use crate::http1::{Header, Progress, Request, RequestHead};
use crate::limits::HEADERS_MAX;
use crate::shard::proxy_protocol::{self, HeaderError};

/// What answers connections; the last hour is kept from now on.
///
/// # Errors
/// When no thread can be started.
pub fn answer_to(state: &Arc<State>) -> std::io::Result<Answer> {
    let (state, history) = (state.clone(), History::start(state.clone())?);
    Ok(Arc::new(move |stream| answer(&state, &history, stream)))
}

fn answer(state: &State, history: &History, stream: &TcpStream) -> std::io::Result<()> {
    let end = connections::begin(stream)?;
    let (mut buffer, mut head) = (Vec::new(), RequestHead::new());
    let mut chunk = [0; 2048];
    let mut begun = false;
    let response = loop {
        if !begun {
            begun = match take_proxy_header(&mut buffer) {
                Ok(taken) => taken,
                Err(error) => break text(400, format!("{error}\n")),
            };
        }
        match if begun { head.parse(&buffer) } else { Ok(Progress::Partial) } {
            Ok(Progress::Complete { .. }) => {
                let mut headers = [Header::EMPTY; HEADERS_MAX];
                let request = head.request(&buffer, &mut headers);
                break match refuse_host(state, &request) {
                    Some(refused) => refused,
                    None => respond(state, history, request.method, request.path),
                };
            }
            Ok(Progress::Partial) => match connections::read(stream, &mut chunk, end)? {
                0 => return Ok(()),
                n => buffer.extend_from_slice(&chunk[..n]),
            },
            Err(reject) => break text(reject.status, format!("{}\n", reject.reason)),
        }
    };
    // As GET, with the same head and no body (RFC 9110, 9.3.2), also where it is refused: load
    // balancers ask so.
    connections::end(stream, &response, head.is_head(&buffer))
}

/// Takes away a header of the PROXY protocol. AWS's NLB sends one with health checks of any port if
/// it is on for the target group; whom it names is of no interest here. False: more bytes must show
/// whether there is one.
fn take_proxy_header(buffer: &mut Vec<u8>) -> Result<bool, HeaderError> {
    if proxy_protocol::look_at_begin(buffer).is_err() {
        return Ok(true);
    }
    let Some(prefix) = buffer.first_chunk() else { return Ok(false) };
    let length = proxy_protocol::header_length(prefix)?;
    if buffer.len() < length {
        return Ok(false);
    }
    buffer.drain(..length);
    Ok(true)
}

fn text(status: u16, body: impl Into<String>) -> Response {
    let content_type = "text/plain; charset=utf-8";
    Response { status, content_type, fields: "", body: body.into() }
}

/// What a page in somebody's browser must not read through its own name that leads here ("DNS
/// rebinding"): see [`is_own_host`].
fn refuse_host(state: &State, request: &Request<'_>) -> Option<Response> {
    let config = state.config.load();
    let names = config.admin.as_ref().map_or(&[][..], |admin| &admin.hosts);
    let foreign = request.values("host").any(|host| !is_own_host(host, names));
    foreign.then(|| {
        text(421, "this Host is neither an IP address, nor localhost, nor one of admin.hosts\n")
    })
}

fn respond(state: &State, history: &History, method: &str, path: &str) -> Response {
    if method != "GET" && method != "HEAD" {
        let fields = "Allow: GET, HEAD\r\n";
        return Response { fields, ..text(405, "only GET and HEAD\n") };
    }
    let json = |body| Response { content_type: "application/json", ..text(200, body) };
    match path {
        "/" => page::response(),
        // Alive: the process answers. Restarting it because an HSM is down would help nobody.
        "/livez" | "/ping" => text(200, "ok\n"),
        "/readyz" => match state.why_unready() {
            None => text(200, "ready\n"),
            Some(why) => text(503, format!("{why}\n")),
        },
        "/metrics" => Response {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..text(200, metrics::expose(state))
        },
        "/status" => json(Status::of(state).to_json()),
        "/history" => json(history.to_json()),
        _ => text(404, "there are / /livez /readyz /ping /metrics /status /history\n"),
    }
}
