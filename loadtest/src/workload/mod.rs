//! What a worker sends: requests in rings, signed when they are due, and what each answer must be.

pub mod answer;
pub mod identity;
pub mod request;
pub mod schedule;
pub mod sign;

use std::rc::Rc;
use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::rand::{SecureRandom, SystemRandom};

use self::answer::{Answer, Checker, EncryptRequest};
use self::request::{Call, Request, RequestIds, Route, decrypt_fields, encrypt_fields};
use self::schedule::Random;
use self::sign::{Date, Signer};
use crate::limits::DISTINCT_REQUESTS;
use crate::target::Target;
use crate::units::Sizes;

/// Shares of the four calls, in the order of [`Call::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix(pub [u32; 4]);

impl Mix {
    /// Reads `encrypt=80,decrypt=20`.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(text: &str) -> Result<Mix, String> {
        let wrong = || {
            format!(
                "{text:?} is no mix: encrypt, decrypt, metadata, health with weights, as in \
                 encrypt=80,decrypt=20"
            )
        };
        let mut mix = [0; 4];
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or_else(wrong)?;
            let call = Call::ALL.iter().position(|c| c.name() == name.trim()).ok_or_else(wrong)?;
            mix[call] = weight.trim().parse().ok().filter(|&w| w <= 1_000_000).ok_or_else(wrong)?;
        }
        if mix.iter().sum::<u32>() == 0 { Err(wrong()) } else { Ok(Mix(mix)) }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let parts: Vec<String> = Call::ALL
            .iter()
            .zip(self.0)
            .filter(|(_, w)| *w > 0)
            .map(|(call, weight)| format!("{}={weight}", call.name()))
            .collect();
        parts.join(",")
    }
}

/// What requests are like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Shares of the calls.
    pub mix: Mix,
    /// Plaintexts, bytes.
    pub plaintext: Sizes,
    /// Additional authenticated data, bytes.
    pub aad: Sizes,
    /// Share of encrypts that ask for a CDIV, 0 to 1.
    pub cdiv: f64,
    /// Sign every request with its own id, instead of once a second.
    pub fresh: bool,
    /// Principals that requests name in turn, one or more.
    pub principals: u32,
    /// Check answers; otherwise status 200 is enough.
    pub verify: bool,
}

/// A plaintext to encrypt.
struct Plaintext {
    request: Request,
    base64: Rc<str>,
    bytes: usize,
    aad: Rc<[u8]>,
    cdiv: bool,
}

/// A ciphertext to decrypt.
struct Ciphertext {
    request: Request,
    plaintext_base64: Rc<str>,
    /// Unix second in which it came in.
    made: i64,
}

/// A request on its way.
pub struct Sent {
    /// Which call.
    pub call: Call,
    slot: usize,
    number: u64,
    /// Plaintext that a decrypt must give back, base64.
    expected: Option<Rc<str>>,
}

/// What an answer came to.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Right, and checked.
    Right,
    /// An error, honestly told.
    Error(String),
    /// It claims success and is wrong.
    Wrong(String),
}

/// All that one worker sends.
pub struct Workload {
    shape: Shape,
    random: Random,
    signers: Vec<Signer>,
    ids: RequestIds,
    date: Date,
    plaintexts: Vec<Plaintext>,
    ciphertexts: Vec<Ciphertext>,
    /// The ciphertext that is replaced next.
    oldest: usize,
    metadata: Vec<Request>,
    health: Vec<Request>,
    next: [usize; 4],
    routes: Vec<Rc<Route>>,
    checker: Checker,
}

impl Workload {
    /// Makes the requests of a worker.
    ///
    /// # Errors
    /// When the clock or the random generator fails.
    pub fn new(
        target: &Target,
        shape: &Shape,
        run: u32,
        worker: usize,
    ) -> Result<Workload, String> {
        let signers: Vec<Signer> = target
            .keystores
            .iter()
            .map(|s| Signer::new(&s.access_key_id, &s.secret, &target.region))
            .collect();
        let routes: Vec<Rc<Route>> = target
            .keystores
            .iter()
            .enumerate()
            .flat_map(|(keystore, store)| {
                let base = format!("{}/kms/xks/v1", store.prefix);
                target.keys.iter().map(move |key| {
                    Rc::new(Route {
                        keystore,
                        key: key.clone(),
                        host: target.host.clone(),
                        base: base.clone(),
                    })
                })
            })
            .collect();
        let mut random = Random::new(u64::from(run) << 16 | worker as u64);
        let count = DISTINCT_REQUESTS.max(routes.len());
        let mut plaintexts = Vec::with_capacity(count);
        for n in 0..count {
            let route = &routes[n % routes.len()];
            plaintexts.push(new_plaintext(
                route,
                &signers[route.keystore],
                shape,
                &mut random,
                n,
                count,
            )?);
        }
        let ciphertexts = if shape.verify {
            Vec::new()
        } else {
            plaintexts.iter().map(|plaintext| unverified_decrypt(plaintext, &signers)).collect()
        };
        let plain = |call| {
            routes
                .iter()
                .map(|route| Request::new(call, route, &signers[route.keystore], ""))
                .collect()
        };
        Ok(Workload {
            metadata: plain(Call::Metadata),
            health: plain(Call::Health),
            ids: RequestIds::new(run, worker),
            date: date_now(None)?,
            random,
            signers,
            plaintexts,
            ciphertexts,
            oldest: 0,
            next: [0; 4],
            routes,
            checker: Checker::default(),
            shape: shape.clone(),
        })
    }

    /// Ways to a key.
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    /// Ciphertexts that can be decrypted.
    pub fn ciphertexts(&self) -> usize {
        self.ciphertexts.len()
    }

    /// Draws a call from the mix.
    pub fn draw(&mut self) -> Call {
        let weights = self.shape.mix.0;
        let mut at = self.random.below(u64::from(weights.iter().sum::<u32>()));
        for (call, weight) in Call::ALL.into_iter().zip(weights) {
            match at.checked_sub(u64::from(weight)) {
                Some(rest) => at = rest,
                None => return call,
            }
        }
        Call::Encrypt
    }

    /// Appends the next request of a call to `out`. While there is nothing to decrypt yet, a
    /// decrypt becomes an encrypt.
    pub fn write(&mut self, call: Call, out: &mut Vec<u8>) -> Sent {
        if let Ok(date) = date_now(Some(self.date)) {
            self.date = date;
        }
        let call =
            if call == Call::Decrypt && self.ciphertexts.is_empty() { Call::Encrypt } else { call };
        let ring = match call {
            Call::Encrypt => self.plaintexts.len(),
            Call::Decrypt => self.ciphertexts.len(),
            Call::Metadata => self.metadata.len(),
            Call::Health => self.health.len(),
        };
        let next = &mut self.next[call as usize];
        let slot = *next % ring.max(1);
        *next = slot + 1;
        let (request, expected) = match call {
            Call::Encrypt => (&mut self.plaintexts[slot].request, None),
            Call::Decrypt => {
                let ciphertext = &mut self.ciphertexts[slot];
                (&mut ciphertext.request, Some(ciphertext.plaintext_base64.clone()))
            }
            Call::Metadata => (&mut self.metadata[slot], None),
            Call::Health => (&mut self.health[slot], None),
        };
        if self.shape.fresh || request.signed() != self.date.second {
            let signer = &mut self.signers[request.keystore()];
            request.sign(signer, &mut self.ids, &self.date, self.shape.principals);
        }
        out.extend_from_slice(request.bytes());
        Sent { call, slot, number: request.number(), expected }
    }

    /// Checks an answer; a ciphertext is kept for a later decrypt.
    pub fn check(&mut self, sent: &Sent, answer: &Answer<'_>) -> Outcome {
        if answer.status != 200 {
            return Outcome::Error(answer::error_name(answer.status, &answer.body));
        }
        if !self.shape.verify {
            return Outcome::Right;
        }
        let checked = match sent.call {
            Call::Encrypt => self.encrypted(sent.slot, &answer.body),
            Call::Decrypt => {
                answer::decrypted(sent.expected.as_deref().unwrap_or_default(), &answer.body)
            }
            Call::Metadata => answer::metadata(&answer.body),
            Call::Health => answer::health(&answer.body),
        };
        match checked {
            Ok(()) => Outcome::Right,
            Err(why) => {
                Outcome::Wrong(format!("{why} (kmsRequestId {})", self.ids.text(sent.number)))
            }
        }
    }

    fn encrypted(&mut self, slot: usize, body: &[u8]) -> Result<(), String> {
        let Some(plaintext) = self.plaintexts.get(slot) else { return Ok(()) };
        let route = plaintext.request.route();
        let key = (slot % self.routes.len()) as u64;
        let asked = EncryptRequest {
            plaintext_bytes: plaintext.bytes,
            aad: &plaintext.aad,
            cdiv: plaintext.cdiv,
        };
        let answer = self.checker.encrypted(&asked, key, body)?;
        // Each ciphertext stays for a second at least: making requests of all of them would cost
        // more than sending them.
        let full = self.ciphertexts.len() >= self.plaintexts.len();
        if full && self.ciphertexts.get(self.oldest).is_some_and(|c| c.made >= self.date.second) {
            return Ok(());
        }
        let fields = decrypt_fields(
            &answer.ciphertext,
            &answer.initializationVector,
            &answer.authenticationTag,
            answer.ciphertextMetadata.as_deref(),
            &plaintext.aad,
        );
        let request = Request::new(Call::Decrypt, route, &self.signers[route.keystore], &fields);
        let ciphertext = Ciphertext {
            request,
            plaintext_base64: plaintext.base64.clone(),
            made: self.date.second,
        };
        if !full {
            self.ciphertexts.push(ciphertext);
        } else if let Some(place) = self.ciphertexts.get_mut(self.oldest) {
            *place = ciphertext;
            self.oldest = (self.oldest + 1) % self.ciphertexts.len();
        }
        Ok(())
    }
}

fn new_plaintext(
    route: &Rc<Route>,
    signer: &Signer,
    shape: &Shape,
    random: &mut Random,
    n: usize,
    count: usize,
) -> Result<Plaintext, String> {
    let mut size =
        |sizes: Sizes| sizes.from + random.below((sizes.to - sizes.from + 1) as u64) as usize;
    let mut plaintext = vec![0; size(shape.plaintext)];
    let mut aad = vec![0; size(shape.aad)];
    let system = SystemRandom::new();
    system
        .fill(&mut plaintext)
        .and_then(|()| system.fill(&mut aad))
        .map_err(|_| "no random numbers")?;
    // Spread evenly over the ring, so that any share comes out right over any stretch of it.
    let share = |n: usize| (n as f64 * shape.cdiv).floor();
    let cdiv = share(n + 1) > share(n) || (n + 1 == count && shape.cdiv >= 1.0);
    Ok(Plaintext {
        request: Request::new(
            Call::Encrypt,
            route,
            signer,
            &encrypt_fields(&plaintext, &aad, cdiv),
        ),
        base64: BASE64_STANDARD.encode(&plaintext).into(),
        bytes: plaintext.len(),
        aad: aad.into(),
        cdiv,
    })
}

/// A decrypt of what no proxy encrypted, as long as a real one: for servers whose answers are not
/// looked at.
fn unverified_decrypt(plaintext: &Plaintext, signers: &[Signer]) -> Ciphertext {
    let route = plaintext.request.route();
    let [iv, tag] = [vec![0; 12], vec![0; 16]].map(|zeros| BASE64_STANDARD.encode(zeros));
    let fields = decrypt_fields(&plaintext.base64, &iv, &tag, None, &plaintext.aad);
    Ciphertext {
        request: Request::new(Call::Decrypt, route, &signers[route.keystore], &fields),
        plaintext_base64: plaintext.base64.clone(),
        made: 0,
    }
}

fn date_now(last: Option<Date>) -> Result<Date, String> {
    let clock = "the system's clock is not usable";
    let second =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|_| clock)?.as_secs()
            as i64;
    match last {
        Some(date) if date.second == second => Ok(date),
        _ => Date::at(second).ok_or_else(|| clock.into()),
    }
}

#[cfg(test)]
mod tests;
