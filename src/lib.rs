//! HMD: health mediated deployments for Cloudflare Workers.
//!
//! Three rings, the inner never knows the outer: the core ([`release`], [`slo`], [`access`], [`time`]) decides and is pure; the
//! pipeline ([`pipeline`], [`store`], [`cloudflare`], [`http`]) loads, decides, commits and acts through a few ports; the
//! runtime (Workers only) is the one place that names the platform. See ARCHITECTURE.md.

#![expect(
    async_fn_in_trait,
    reason = "the ports are this crate's own: Workers futures are not Send and need not be"
)]

pub mod access;
pub mod cloudflare;
mod decimal;
mod gather;
pub mod http;
pub mod json;
#[cfg(not(target_arch = "wasm32"))]
pub mod openapi;
pub mod pipeline;
pub mod release;
#[cfg(target_arch = "wasm32")]
mod runtime;
#[cfg(not(target_arch = "wasm32"))]
pub mod simulator;
pub mod slo;
pub mod sorted;
pub mod store;
pub mod time;
pub mod webhook;
