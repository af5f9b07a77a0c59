//! What the table of operations consists of.

use ::http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

/// Makes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// `operationId`.
    pub id: &'static str,
    /// One of `TAGS`.
    pub tag: &'static str,
    /// A few words.
    pub summary: &'static str,
    /// Sentences.
    pub description: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Parameters of path, query and header.
    pub parameters: Vec<Parameter>,
    /// What it takes.
    pub body: Option<Body>,
    /// What it answers, by status.
    pub answers: Vec<Answer>,
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever has the token.
    Token,
    /// The same; a browser may show it as a password.
    Page,
    /// Whoever can sign for the plan's hook.
    Signature,
    /// Everyone.
    Everyone,
}

/// A parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What it does.
    pub description: &'static str,
    /// What it may be.
    pub schema: SchemaOf,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In a header.
    Header,
    /// In a header that can't be left out.
    SignedHeader,
}

impl Place {
    /// As OpenAPI calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header | Self::SignedHeader => "header",
        }
    }

    /// What stands in the path can't be left out, nor can a part of a signature.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::Path | Self::SignedHeader)
    }
}

/// A request body.
#[derive(Clone, Debug)]
pub struct Body {
    /// Whether it can't be left out.
    pub required: bool,
    /// A form is taken, too.
    pub form: bool,
    /// Its type.
    pub schema: SchemaOf,
    /// An example.
    pub example: fn() -> Value,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// When it comes.
    pub when: &'static str,
    /// What it carries.
    pub content: Content,
    /// Headers that it may have.
    pub headers: &'static [&'static str],
}

/// What an answer carries.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// No body.
    None,
    /// `application/json` of a type, with an example.
    Json(SchemaOf, fn() -> Value),
    /// `application/json` of a form that is not HMD's.
    AnyJson,
    /// `application/problem+json`
    Problem,
    /// `text/html`
    Html,
    /// A page for people, or `application/json` of a type for who accepts that.
    Page(SchemaOf, fn() -> Value),
    /// The same with a problem.
    ProblemPage,
}

/// The schema of a type, as a plain function.
pub fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    /// An operation that has nothing yet but what its path and every operation have.
    pub fn new(
        (method, path): (Method, &'static str),
        (id, tag): (&'static str, &'static str),
        (summary, description): (&'static str, &'static str),
    ) -> Self {
        let names = path
            .split('/')
            .filter_map(|step| step.strip_prefix('{')?.strip_suffix('}'));
        Self {
            method,
            path,
            id,
            tag,
            summary,
            description,
            access: Access::Token,
            parameters: names.map(super::parameters::of_path).collect(),
            body: None,
            answers: Vec::new(),
        }
        .problem(401, "The token is missing or wrong.", &["WWW-Authenticate"])
        .problem(503, UNAVAILABLE, &["Retry-After"])
    }

    /// Who may call it, if not only whoever has the token.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        if access == Access::Everyone {
            self.answers.retain(|answer| answer.status != 401);
        }
        self
    }

    /// Adds parameters.
    #[must_use]
    pub fn parameters(mut self, parameters: &[Parameter]) -> Self {
        self.parameters.extend_from_slice(parameters);
        self
    }

    /// It takes a body, with what can be wrong with one.
    #[must_use]
    pub fn body<T: JsonSchema>(mut self, required: bool, example: fn() -> Value) -> Self {
        self.body = Some(Body {
            required,
            form: false,
            schema: schema::<T>,
            example,
        });
        self.problem(400, "The body is not JSON.", &[])
            .problem(413, "The body has more than 64 KB.", &[])
            .problem(415, "The body is not `application/json`.", &[])
            .problem(
                422,
                "A field is unknown, missing or wrong: `errors` points at each.",
                &[],
            )
    }

    /// It is made for browsers, too: its answers are pages unless JSON is asked for, and its body may be a form.
    #[must_use]
    pub fn for_browsers(mut self) -> Self {
        for answer in &mut self.answers {
            answer.content = match answer.content {
                Content::Json(schema, example) => Content::Page(schema, example),
                Content::Problem => Content::ProblemPage,
                other => other,
            };
        }
        if let Some(body) = &mut self.body {
            body.form = true;
        }
        self
    }

    /// It answers so.
    #[must_use]
    pub fn answer(
        mut self,
        status: u16,
        when: &'static str,
        content: Content,
        headers: &'static [&'static str],
    ) -> Self {
        self.answers.retain(|answer| answer.status != status);
        self.answers.push(Answer {
            status,
            when,
            content,
            headers,
        });
        self.answers.sort_by_key(|answer| answer.status);
        self
    }

    /// It answers a type with 200.
    #[must_use]
    pub fn ok<T: JsonSchema>(self, when: &'static str, example: fn() -> Value) -> Self {
        self.answer(200, when, Content::Json(schema::<T>, example), &[])
    }

    /// It refuses so; in place of what was said of this status before.
    #[must_use]
    pub fn problem(
        self,
        status: u16,
        when: &'static str,
        headers: &'static [&'static str],
    ) -> Self {
        self.answer(status, when, Content::Problem, headers)
    }

    /// It answers a type with 200 and the revision as its tag, or 304 to who has that already.
    #[must_use]
    pub fn tagged<T: JsonSchema>(self, when: &'static str, example: fn() -> Value) -> Self {
        self.parameters(&[super::parameters::IF_CHANGED])
            .answer(200, when, Content::Json(schema::<T>, example), &["ETag"])
            .answer(
                304,
                "It still has the revision that `If-None-Match` names.",
                Content::None,
                &["ETag"],
            )
    }
}

const UNAVAILABLE: &str =
    "The database does not answer, or HMD is not configured: nothing was changed.";
