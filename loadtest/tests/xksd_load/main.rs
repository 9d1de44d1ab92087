//! `xksd-load` as a person runs it, against xksd and against proxies that misbehave.

mod modules;
mod proxies;

mod against_bad_proxies;
mod against_xksd;
mod architecture;
mod through_balancer;
mod ways_in;
