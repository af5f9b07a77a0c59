//! Signing in with the API token or a one-time link, and signing out.

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, html};
use subtle::ConstantTimeEq as _;

use super::super::Answer;
use super::super::problem::Problem;
use super::layout::{self, Frame, hidden};
use super::session::{Shown, Visitor, clear_cookie, client_tag, read_link};
use super::{Form, Page, html_answer, is_secure, see_other};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::store;

/// Within this time so many tries of one address may fail.
const TRIES: i64 = 10;
const TRIES_WITHIN_MS: i64 = 10 * 60_000;

/// Only a page of this dashboard is gone on to.
fn next(form: &Form) -> &str {
    let next = form.get("next");
    let path = next.split('?').next().unwrap_or_default();
    let plain = next
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    match Page::of(path) {
        Some(page) if plain && page.methods().contains(&::http::Method::GET) => match page {
            Page::SignIn | Page::SignInLink(_) | Page::Asset(..) => "/",
            _ => next,
        },
        _ => "/",
    }
}

pub(super) fn with_cookie(mut response: Response<Vec<u8>>, cookie: &str) -> Answer {
    let value = HeaderValue::from_str(cookie).map_err(|error| Problem::internal(&error))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

fn page(status: StatusCode, title: &str, body: &Markup) -> Answer {
    let frame = Frame {
        title,
        nav: None,
        form_token: None,
        person: None,
        has_script: true,
    };
    html_answer(status, layout::page(&frame, body))
}

/// `GET /sign-in`.
pub(super) fn show<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
    visitor: Option<&Visitor>,
) -> Answer {
    let query = Form::read(request.uri().query().unwrap_or("").as_bytes());
    if visitor.is_some() {
        return see_other(next(&query));
    }
    form(pipeline, request, (StatusCode::OK, None), next(&query))
}

/// The form, tied to this browser by a cookie: the one that it has, or its other tabs' forms would be worth nothing.
fn form<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
    (status, error): (StatusCode, Option<&str>),
    next: &str,
) -> Answer {
    let (config, ports) = (pipeline.config, pipeline.ports);
    let (now, secure) = (ports.now(), is_secure(request));
    let known = Visitor::guest(request.headers(), config, now, secure);
    let is_known = known.is_some();
    let visitor =
        known.unwrap_or_else(|| Visitor::new(config, now, ports.random(), Shown::Nothing));
    let body = html! {
        section.card.narrow {
            h1 { "Sign in" }
            p { "With the installation's " code { "HMD_API_TOKEN" } "." }
            form method="post" action="/sign-in" {
                (hidden("form", &visitor.form_token(&config.keys)))
                (hidden("next", next))
                label for="token" { "API token" }
                input #token name="token" type="password" autocomplete="current-password" required autofocus
                    aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| "token-error")];
                @if let Some(error) = error { p.error #token-error role="alert" { (error) } }
                button.primary type="submit" { "Sign in" }
            }
        }
    };
    let response = page(status, "Sign in", &body)?;
    if is_known {
        return Ok(response);
    }
    with_cookie(response, &visitor.set_cookie(secure))
}

/// For who comes from another site, and so shows no cookie: the same address once more, asked for by this page, to which the browser
/// does show them. Without a cookie of its own, which would take the place of a session that is still good.
pub(super) fn bounce(request: &Request<Vec<u8>>) -> Answer {
    let uri = request.uri();
    let query = Form::read(uri.query().unwrap_or("").as_bytes());
    // What another site says was done is not repeated.
    let target = match uri.path_and_query() {
        Some(all) if query.get("done").is_empty() => all.as_str(),
        _ => uri.path(),
    };
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head { title { "HMD" } meta http-equiv="refresh" content=(format!("0; url={target}")); }
            body { a href=(target) { "Go on to HMD" } }
        }
    };
    html_answer(StatusCode::OK, body)
}

/// `POST /sign-in`.
pub(super) async fn sign_in<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
) -> Answer {
    let (config, ports) = (pipeline.config, pipeline.ports);
    let sent = Form::read(request.body());
    let client = client_tag(request.headers(), &config.keys);
    let now = ports.now();
    // Counted before it is looked at: many tries at once can't slip through. A crash leaves one try too many counted.
    let (tries, since) = store::count_sign_in(ports, &client, now, now - TRIES_WITHIN_MS).await?;
    if tries > TRIES {
        let seconds = ((since + TRIES_WITHIN_MS - now) / 1_000).max(1);
        let detail = format!("too many tries to sign in from your address; wait {seconds} s");
        return Err(Problem::new(429, "Too many tries", detail)
            .header(header::RETRY_AFTER, &seconds.to_string()));
    }
    let shown = sent.get("token").as_bytes();
    // In constant time: how long a wrong token takes must not tell how much of it was right.
    if !bool::from(shown.ct_eq(config.hmd_api_token.expose().as_bytes())) {
        let error = "This is not the installation's token.";
        let status = StatusCode::FORBIDDEN;
        return form(pipeline, request, (status, Some(error)), next(&sent));
    }
    store::signed_in(ports, &client).await?;
    let visitor = Visitor::new(config, now, ports.random(), Shown::Token);
    let response = see_other(next(&sent))?;
    with_cookie(response, &visitor.set_cookie(is_secure(request)))
}

/// `GET /sign-in/{token}`: works once. Not a redirect, for a browser that comes from elsewhere would not show a strict cookie
/// on it.
pub(super) async fn by_link<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    token: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let (config, ports) = (pipeline.config, pipeline.ports);
    let now = ports.now();
    let used = |why: &str| {
        let detail = format!("{why}; ask for a new one, or sign in with the API token");
        Problem::new(403, "This link does not sign in", detail)
    };
    let Some(link) = read_link(&config.keys, token, now) else {
        return Err(used(
            "it was altered, or it is older than the quarter of an hour in which it works once",
        ));
    };
    // Looking uses nothing up.
    if *request.method() == ::http::Method::HEAD {
        return page(StatusCode::OK, "Sign in", &Markup::default());
    }
    // A crash after this leaves the link used up, and nobody signed in by it.
    if !store::use_sign_in_link(ports, &link.nonce, link.expires_at, now).await? {
        return Err(used("it has been used already"));
    }
    let visitor = Visitor::new(config, now, ports.random(), Shown::Token);
    let body = html! {
        section.card.narrow {
            h1 { "You are signed in" }
            p { a.button.primary href="/" data-go="" { "Open the dashboard" } }
        }
    };
    let response = page(StatusCode::OK, "Signed in", &body)?;
    with_cookie(response, &visitor.set_cookie(is_secure(request)))
}

/// `POST /sign-out`.
pub(super) fn sign_out(secure: bool) -> Answer {
    with_cookie(see_other("/sign-in")?, &clear_cookie(secure))
}
