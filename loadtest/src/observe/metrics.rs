//! The Prometheus text of an admin listener.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::limits::METRICS_BYTES_MAX;

const PATIENCE: Duration = Duration::from_secs(2);

/// Samples: series with labels as it is written, and value.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Reads the text format; what is no sample is passed over.
    pub fn parse(text: &str) -> Metrics {
        let sample = |line: &str| {
            if line.starts_with('#') {
                return None;
            }
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Metrics(text.lines().filter_map(sample).collect())
    }

    /// The sum of all series of this name that have `label` (as written: `state="open"`) among
    /// their labels.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let of_name = |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
            })
        };
        self.0.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }
}

/// Asks each listener for `/metrics`, and takes the answers together.
///
/// # Errors
/// When there is none, or one does not answer.
pub fn scrape_all(admin: &[SocketAddr]) -> Result<Metrics, String> {
    let mut all = Metrics::default();
    for address in admin {
        all.0.extend(scrape(*address)?.0);
    }
    if admin.is_empty() { Err("no admin listener".into()) } else { Ok(all) }
}

/// Asks for `/metrics`.
///
/// # Errors
/// When the listener does not answer with it.
fn scrape(admin: SocketAddr) -> Result<Metrics, String> {
    let text = get(admin).map_err(|e| format!("http://{admin}/metrics: {e}"))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(Metrics::parse(body)),
        _ => Err(format!("http://{admin}/metrics: not answered 200")),
    }
}

fn get(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let metrics = Metrics::parse(
            "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4.5\na_total 100\na \
             0.5\nbroken\nb NaNa\n",
        );
        assert_eq!(metrics.sum("a", ""), 8.0);
        assert_eq!(metrics.sum("a", "x=\"1\""), 3.0);
        assert_eq!(metrics.sum("a_total", ""), 100.0);
        assert_eq!(metrics.sum("b", ""), 0.0);
    }
}
