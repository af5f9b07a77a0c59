//! Sign-in by Cloudflare Access on Workers: `WebCrypto` checks signatures, and the isolate remembers keys.

use std::cell::RefCell;

use wasm_bindgen::{JsCast as _, JsValue};
use worker::js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array, global};
use worker::wasm_bindgen_futures::JsFuture;
use worker::{AbortSignal, Fetch, Headers};

use super::ports::{WorkerPorts, in_time, outgoing};
use crate::access::{KnownKeys, RsaKey};
use crate::pipeline::ports::{AccessKeys, HttpError};

thread_local! {
    /// For as long as this isolate lives; another one reads the keys for itself.
    static KEYS: RefCell<KnownKeys> = RefCell::default();
}

impl AccessKeys for WorkerPorts {
    async fn read_keys(&self, url: &str, timeout_ms: u32) -> Result<String, HttpError> {
        let request = outgoing(url, "GET", &Headers::new(), None)
            .map_err(|error| HttpError::Failed(error.to_string()))?;
        let call = async |signal: AbortSignal| {
            let mut response = Fetch::Request(request).send_with_signal(&signal).await?;
            match response.status_code() {
                200 => response.text().await,
                status => Err(worker::Error::RustError(format!("it answered {status}"))),
            }
        };
        in_time(timeout_ms, call).await
    }

    async fn verifies(&self, key: &RsaKey, signed: &[u8], signature: &[u8]) -> bool {
        // Whatever fails on the way was not verified.
        verifies(key, signed, signature).await.unwrap_or(false)
    }

    fn known_keys(&self) -> KnownKeys {
        KEYS.with_borrow(Clone::clone)
    }

    fn remember_keys(&self, keys: KnownKeys) {
        KEYS.replace(keys);
    }
}

fn object(fields: &[(&str, JsValue)]) -> Result<Object, JsValue> {
    let object = Object::new();
    for (name, value) in fields {
        Reflect::set(&object, &JsValue::from_str(name), value)?;
    }
    Ok(object)
}

async fn call(on: &JsValue, name: &str, arguments: &[JsValue]) -> Result<JsValue, JsValue> {
    let function: Function = Reflect::get(on, &JsValue::from_str(name))?.dyn_into()?;
    let arguments: Array = arguments.iter().collect();
    let promise: Promise = function.apply(on, &arguments)?.dyn_into()?;
    JsFuture::from(promise).await
}

async fn verifies(key: &RsaKey, signed: &[u8], signature: &[u8]) -> Result<bool, JsValue> {
    let crypto = Reflect::get(&global(), &"crypto".into())?;
    let subtle = Reflect::get(&crypto, &"subtle".into())?;
    let algorithm: JsValue = object(&[
        ("name", "RSASSA-PKCS1-v1_5".into()),
        ("hash", "SHA-256".into()),
    ])?
    .into();
    let jwk = object(&[
        ("kty", "RSA".into()),
        ("alg", "RS256".into()),
        ("n", key.modulus.as_str().into()),
        ("e", key.exponent.as_str().into()),
    ])?;
    let uses: Array = ["verify"].iter().copied().map(JsValue::from).collect();
    let import = [
        "jwk".into(),
        jwk.into(),
        algorithm.clone(),
        JsValue::FALSE,
        uses.into(),
    ];
    let imported = call(&subtle, "importKey", &import).await?;
    let verify = [
        algorithm,
        imported,
        Uint8Array::from(signature).into(),
        Uint8Array::from(signed).into(),
    ];
    let verified = call(&subtle, "verify", &verify).await?;
    Ok(verified.as_bool() == Some(true))
}
