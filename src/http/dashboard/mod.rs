//! The dashboard at `/`: pages for people, made of HTML that works without JavaScript. Whatever is done here is done by the
//! functions of the API, so that a page can decide nothing that the API would not.

mod access;
mod chart;
mod connect;
mod create;
mod forecast;
mod health;
mod history;
pub(super) mod layout;
mod opinions;
mod plan;
mod plan_field;
mod plan_form;
mod plan_items;
mod plan_queries;
mod plan_sentence;
mod release;
mod report;
mod session;
mod sign_in;
mod watch;
mod webhooks;
mod workers;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::headers::{FETCH_SITE, FRAGMENT};
use super::problem::Problem;
use super::releases::{Actor, Shown as ShownVersion};
use super::route::Route;
use super::{Answer, MAX_BODY_BYTES, StaticFile, only};
use crate::access::Person;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use layout::Frame;
use session::{Shown, Visitor};

pub use session::sign_in_path;

/// Everything comes from here, nothing is inline, and nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The actor of what is done here by whoever shows the API token; whom Cloudflare Access names is `access:<e-mail>`.
const ACTOR: &str = "dashboard";
/// Not among those that `http` names.
static OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A page of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page<'a> {
    Asset(StaticFile),
    SignIn,
    /// A one-time link.
    SignInLink(&'a str),
    SignOut,
    Workers,
    Connect,
    /// Account id and script name.
    Disconnect(&'a str, &'a str),
    History,
    Compare,
    Release(&'a str),
    /// A command to a release.
    Act(&'a str, &'a str),
    NewRelease,
    Plans,
    Plan(&'a str),
    DeletePlan(&'a str),
    /// What a plan will see.
    Forecast(&'a str),
    Webhooks,
    Webhook(&'a str),
    WebhookAct(&'a str, &'a str),
    Delivery(&'a str, &'a str),
    Replay(&'a str, &'a str),
}

/// The parts of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nav {
    Workers,
    New,
    Plans,
    History,
    Webhooks,
}

impl Nav {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Workers, "/", "Workers"),
        (Self::New, "/new", "New release"),
        (Self::Plans, "/plans", "Plans"),
        (Self::History, "/releases", "History"),
        (Self::Webhooks, "/webhooks", "Webhooks"),
    ];
}

impl<'a> Page<'a> {
    /// The page of a path.
    pub fn of(path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match segments[..] {
            [""] => Self::Workers,
            ["assets", "dashboard.css"] => Self::Asset(StaticFile::Style),
            ["assets", "dashboard.js"] => Self::Asset(StaticFile::Script),
            ["assets", "icon.svg"] => Self::Asset(StaticFile::Icon),
            ["sign-in"] => Self::SignIn,
            ["sign-in", token] => Self::SignInLink(token),
            ["sign-out"] => Self::SignOut,
            ["connect"] => Self::Connect,
            ["workers", account, script, "disconnect"] => Self::Disconnect(account, script),
            ["releases"] => Self::History,
            ["compare"] => Self::Compare,
            ["releases", id] => Self::Release(id),
            ["releases", id, verb] => Self::Act(id, verb),
            ["new"] => Self::NewRelease,
            ["plans"] => Self::Plans,
            ["plans", name] => Self::Plan(name),
            ["plans", name, "forecast"] => Self::Forecast(name),
            ["plans", name, "delete"] => Self::DeletePlan(name),
            ["webhooks"] => Self::Webhooks,
            ["webhooks", id] => Self::Webhook(id),
            ["webhooks", id, verb] => Self::WebhookAct(id, verb),
            ["webhooks", id, "deliveries", message] => Self::Delivery(id, message),
            ["webhooks", id, "deliveries", message, "replay"] => Self::Replay(id, message),
            _ => return None,
        })
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Self::Asset(_)
            | Self::SignInLink(_)
            | Self::Workers
            | Self::History
            | Self::Compare
            | Self::Release(_)
            | Self::Plans
            | Self::Delivery(..) => &[Method::GET],
            Self::SignIn
            | Self::Connect
            | Self::NewRelease
            | Self::Plan(_)
            | Self::Forecast(_)
            | Self::Webhooks
            | Self::Webhook(_) => &[Method::GET, Method::POST],
            Self::SignOut
            | Self::Disconnect(..)
            | Self::Act(..)
            | Self::DeletePlan(_)
            | Self::WebhookAct(..)
            | Self::Replay(..) => &[Method::POST],
        }
    }
}

/// A form as it was sent.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    fn read(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// A field, without the white space around it; empty if it is absent.
    fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(known, _)| known == name);
        field.map_or("", |(_, value)| value.trim())
    }

    /// The values of a field that may be there more than once.
    fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        let fields = self.0.iter().filter(move |(known, _)| known == name);
        fields.map(|(_, value)| value.as_str())
    }
}

/// A request by somebody who is signed in.
pub(super) struct Desk<'a, P> {
    pipeline: &'a Pipeline<'a, P>,
    request: &'a Request<Vec<u8>>,
    /// What its forms carry.
    form_token: String,
    /// Whom Cloudflare Access names.
    person: Option<&'a Person>,
}

impl<P: Ports> Desk<'_, P> {
    /// The fields of the query.
    fn query(&self) -> Form {
        let mut query = Form::read(self.request.uri().query().unwrap_or("").as_bytes());
        // Only HMD itself says that something was done: a link from elsewhere may say anything.
        let site = self.request.headers().get(&FETCH_SITE);
        if site.is_some_and(|site| site.as_bytes() != b"same-origin") {
            query.0.retain(|(name, _)| name != "done");
        }
        query
    }

    fn form(&self) -> Form {
        Form::read(self.request.body())
    }

    /// A page in its frame.
    fn page(&self, nav: Option<Nav>, title: &str, body: &Markup) -> Answer {
        self.page_with(None, nav, title, body)
    }

    /// The same, of a form that was refused with the status that the API gave.
    fn page_with(
        &self,
        refused: Option<&Problem>,
        nav: Option<Nav>,
        title: &str,
        body: &Markup,
    ) -> Answer {
        let frame = Frame {
            title,
            nav,
            form_token: Some(&self.form_token),
            person: self.person.map(|person| person.name.as_str()),
            has_script: true,
        };
        let status = refused.and_then(|problem| StatusCode::from_u16(problem.status).ok());
        html_answer(status.unwrap_or(StatusCode::OK), layout::page(&frame, body))
    }

    /// A page that shows changes by itself: 304 if the browser has this state, the changing part alone if it asks for that.
    /// `tag` must change with everything that `live` shows.
    fn live(&self, nav: Nav, title: &str, tag: &str, (still, live): (&Markup, &Markup)) -> Answer {
        // What the script says when it gets no answer; it is there before, or nobody would be read it.
        let stale = html! { p #stale .stale role="status" {} };
        let region = html! {
            div #live data-tag=(tag) data-title=(title) { (live) }
        };
        let mut response = if self.request.headers().contains_key(&FRAGMENT) {
            html_answer(StatusCode::OK, region)?
        } else {
            self.page(Some(nav), title, &html! { (still) (stale) (region) })?
        };
        if let Ok(tag) = HeaderValue::from_str(tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        Ok(response)
    }

    /// Whether the browser has this state already.
    fn has(&self, tag: &str) -> bool {
        let known = self.request.headers().get(header::IF_NONE_MATCH);
        known.is_some_and(|known| known.as_bytes() == tag.as_bytes())
    }

    /// What the API answers.
    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: &Value,
    ) -> Result<Value, Problem> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = if body.is_null() {
            Vec::new()
        } else {
            request = request.header(header::CONTENT_TYPE, "application/json");
            body.to_string().into_bytes()
        };
        // A name that no path can hold names nothing.
        let nothing = || Problem::not_found("there is no such thing");
        let mut request = request.body(body).map_err(|_| nothing())?;
        let actor = self.person.map(|person| format!("access:{}", person.name));
        let actor = Actor(actor.unwrap_or_else(|| ACTOR.to_owned()));
        request.extensions_mut().insert(actor);
        // What a form was made from, if it matters for what the form asks for.
        if let Ok(version) = self.form().get("shown").parse() {
            request.extensions_mut().insert(ShownVersion(version));
        }
        let path = request.uri().path().to_owned();
        let route = Route::of(&path).ok_or_else(nothing)?;
        let response = super::answer(self.pipeline, route, &request).await?;
        if response.body().is_empty() {
            return Ok(Value::Null);
        }
        let answer: Value =
            crate::json::parse_bytes(response.body()).map_err(|error| Problem::internal(&error))?;
        if response.status().as_u16() >= 400 {
            let detail = answer["detail"].as_str().unwrap_or_default().to_owned();
            let title = answer["title"].as_str().unwrap_or("Refused").to_owned();
            return Err(Problem::new(response.status().as_u16(), &title, detail));
        }
        Ok(answer)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Problem> {
        self.call(Method::POST, path, &[], body).await
    }
}

fn html_answer(status: StatusCode, markup: Markup) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .body(markup.into_string().into_bytes())
        .map_err(|error| Problem::internal(&error))
}

/// The page that a path is a part of, or is reached from.
fn above(mut path: &str) -> &str {
    while let Some((rest, _)) = path.rsplit_once('/') {
        path = rest;
        if Page::of(path).is_some_and(|page| page.methods().contains(&Method::GET)) {
            return path;
        }
    }
    "/"
}

/// After something was done, a page that can be loaded again without doing it again.
fn see_other(path: &str) -> Answer {
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, path)
        .body(Vec::new())
        .map_err(|error| Problem::internal(&error))
}

fn not_modified(tag: &str) -> Answer {
    Response::builder()
        .status(StatusCode::NOT_MODIFIED)
        .header(header::ETAG, tag)
        .body(Vec::new())
        .map_err(|error| Problem::internal(&error))
}

async fn asset<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
    file: StaticFile,
) -> Answer {
    let text = pipeline.ports.static_file(file).await?;
    // A build has one version of each: a hash of the text names it.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let tag = format!("\"{hash:016x}\"");
    let known = request.headers().get(header::IF_NONE_MATCH);
    let mut response = if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        not_modified(&tag)?
    } else {
        Response::builder()
            .header(header::CONTENT_TYPE, file.content_type())
            .header(header::ETAG, tag)
            .body(text.into_bytes())
            .map_err(|error| Problem::internal(&error))?
    };
    let policy = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, policy);
    Ok(response)
}

/// Whether people reach this installation over HTTPS.
fn is_secure(request: &Request<Vec<u8>>) -> bool {
    request.uri().scheme_str() == Some("https")
}

/// Whether a form was sent by a page of this very installation: browsers say where each POST comes from.
fn is_own(request: &Request<Vec<u8>>, public_url: Option<&str>) -> bool {
    let headers = request.headers();
    let text = |name: &HeaderName| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let Some(origin) = text(&header::ORIGIN) else {
        return text(&FETCH_SITE) == Some("same-origin");
    };
    let uri = request.uri();
    let own = uri.scheme_str().zip(uri.authority());
    own.is_some_and(|(scheme, authority)| origin == format!("{scheme}://{authority}"))
        || public_url.is_some_and(|url| url == origin || url.starts_with(&format!("{origin}/")))
}

/// Whether the browser was led here by a page of another site: it then keeps strict cookies to itself, whether it has any or not.
fn comes_from_elsewhere(request: &Request<Vec<u8>>) -> bool {
    let site = request.headers().get(&FETCH_SITE);
    site.is_some_and(|site| site.as_bytes() == b"cross-site")
}

/// Who asks for a page.
#[derive(Default)]
struct Caller {
    /// Who is signed in.
    visitor: Option<Visitor>,
    /// Whom Cloudflare Access names.
    person: Option<Person>,
    /// The visitor's cookie has just been made, and is to be sent along.
    is_new: bool,
}

impl Caller {
    async fn of<P: Ports>(
        pipeline: &Pipeline<'_, P>,
        page: Page<'_>,
        request: &Request<Vec<u8>>,
    ) -> Result<Self, Problem> {
        // What everybody may have asks nobody who they are.
        let person = match page {
            Page::Asset(..) => None,
            _ => access::person(pipeline, request).await?,
        };
        let (ports, config) = (pipeline.ports, pipeline.config);
        let (now, secure) = (ports.now(), is_secure(request));
        let visitor = Visitor::of(request.headers(), config, now, (secure, person.as_ref()));
        // Whoever comes from Access has signed in already. Only a page gets a cookie: a form without one was made elsewhere, and
        // a part of a page has forms around it that are too old.
        let reads = *request.method() != Method::POST
            && !request.headers().contains_key(&FRAGMENT)
            && !comes_from_elsewhere(request);
        let (visitor, is_new) = match (visitor, &person) {
            (None, Some(person)) if reads => {
                let shown = Shown::Person(person);
                let visitor = Visitor::new(config, now, ports.random(), shown);
                (Some(visitor), true)
            }
            (visitor, _) => (visitor, false),
        };
        Ok(Self {
            visitor,
            person,
            is_new,
        })
    }
}

/// Answers a request for a page.
pub(crate) async fn handle<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    page: Page<'_>,
    request: &Request<Vec<u8>>,
) -> Response<Vec<u8>> {
    let fragment = request.headers().contains_key(&FRAGMENT);
    let (caller, response) = match Caller::of(pipeline, page, request).await {
        Ok(caller) => {
            let response = answer(pipeline, page, request, &caller).await;
            (caller, response)
        }
        Err(problem) => (Caller::default(), Err(problem)),
    };
    let mut response = response.unwrap_or_else(|problem| {
        if problem.status >= 500 && !problem.foreseen {
            let line = json!({"log": "alert", "path": "dashboard", "status": problem.status, "detail": problem.detail});
            pipeline.ports.log(&line);
        }
        if fragment {
            return problem.response();
        }
        let form = Form::read(request.body());
        let comment = form.get("comment");
        let above = above(request.uri().path());
        let body = html! {
            h1 { (problem.title) }
            (layout::problem(&problem))
            @if !comment.is_empty() { p { "Your comment was:" } pre tabindex="0" { (comment) } }
            p { @if above != "/" { a href=(above) { "Back" } " · " } a href="/" { "All Workers" } }
        };
        let token = caller.visitor.as_ref().map(|visitor| visitor.form_token(&pipeline.config.keys));
        let frame = Frame {
            title: &problem.title,
            nav: None,
            form_token: token.as_deref(),
            person: caller.person.as_ref().map(|person| person.name.as_str()),
            has_script: true,
        };
        let markup = layout::page(&frame, &body);
        let mut response = problem.response();
        *response.body_mut() = markup.into_string().into_bytes();
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        response
    });
    if let Some(visitor) = caller.visitor.filter(|_| caller.is_new)
        && let Ok(cookie) = HeaderValue::from_str(&visitor.set_cookie(is_secure(request)))
    {
        let headers = response.headers_mut();
        headers.entry(header::SET_COOKIE).or_insert(cookie);
    }
    protected(response)
}

fn protected(mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    let headers: &mut HeaderMap = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Not `no-referrer`: with it browsers hide from this installation itself where a form came from.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (OPENER_POLICY.clone(), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn answer<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    page: Page<'_>,
    request: &Request<Vec<u8>>,
    caller: &Caller,
) -> Answer {
    only(request, page.methods())?;
    if request.body().len() > MAX_BODY_BYTES {
        let detail = format!("a form has at most {MAX_BODY_BYTES} bytes");
        return Err(Problem::new(413, "Body too large", detail));
    }
    let config = pipeline.config;
    let visitor = caller.visitor.as_ref();
    let posted = *request.method() == Method::POST;
    if posted {
        let detail = "this form was not sent by a page of this dashboard, or that page is too old. Nothing was done: load the page again, and send it from there";
        let refused = || Problem::new(403, "Not accepted", detail);
        if !is_own(request, config.public_url.as_deref()) {
            return Err(refused());
        }
        let token = Form::read(request.body());
        let guest = (page == Page::SignIn)
            .then(|| {
                let now = pipeline.ports.now();
                Visitor::guest(request.headers(), config, now, is_secure(request))
            })
            .flatten();
        let maker = guest.as_ref().or(visitor);
        if !maker.is_some_and(|maker| maker.owns_form(&config.keys, token.get("form"))) {
            return Err(refused());
        }
    }
    let shows_no_cookie = visitor.is_none() && comes_from_elsewhere(request);
    match page {
        Page::Asset(file) => return asset(pipeline, request, file).await,
        Page::SignIn if posted => return sign_in::sign_in(pipeline, request).await,
        // A one-time link needs no cookie, and gives one.
        Page::SignInLink(token) => return sign_in::by_link(pipeline, token, request).await,
        Page::SignOut => return sign_in::sign_out(is_secure(request)),
        _ if shows_no_cookie && !posted => return sign_in::bounce(request),
        Page::SignIn => return sign_in::show(pipeline, request, visitor),
        _ => (),
    }
    let Some(visitor) = visitor else {
        if posted || request.headers().contains_key(&FRAGMENT) {
            return Err(Problem::new(401, "Signed out", "sign in again"));
        }
        let target = request.uri().path_and_query().map_or("/", |it| it.as_str());
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("next", target)
            .finish();
        return see_other(&format!("/sign-in?{query}"));
    };
    let desk = Desk {
        pipeline,
        request,
        form_token: visitor.form_token(&config.keys),
        person: caller.person.as_ref(),
    };
    match page {
        Page::Workers => workers::show(&desk).await,
        Page::Connect if posted => connect::submit(&desk).await,
        Page::Connect => connect::show(&desk),
        Page::Disconnect(account, script) => connect::disconnect(&desk, (account, script)).await,
        Page::Release(id) => release::show(&desk, id).await,
        Page::Act(id, verb) => release::act(&desk, id, verb).await,
        Page::History => history::show(&desk).await,
        Page::Compare => history::compare(&desk).await,
        Page::NewRelease if posted => create::submit(&desk).await,
        Page::NewRelease => create::show(&desk).await,
        Page::Plans => plan::list(&desk).await,
        Page::Plan(name) if posted => plan::submit(&desk, name).await,
        Page::Plan(name) => plan::show(&desk, name).await,
        Page::Forecast(name) if posted => forecast::ask(&desk, name).await,
        Page::Forecast(name) => forecast::show(&desk, name).await,
        Page::DeletePlan(name) => plan::delete(&desk, name).await,
        Page::Webhooks if posted => webhooks::create(&desk).await,
        Page::Webhooks => webhooks::list(&desk).await,
        Page::Webhook(id) if posted => webhooks::change(&desk, id).await,
        Page::Webhook(id) => webhooks::show(&desk, id).await,
        Page::WebhookAct(id, verb) => webhooks::act(&desk, id, verb).await,
        Page::Delivery(id, message) => webhooks::delivery(&desk, id, message).await,
        Page::Replay(id, message) => webhooks::replay(&desk, id, message).await,
        Page::Asset(_) | Page::SignIn | Page::SignInLink(_) | Page::SignOut => see_other("/"),
    }
}
