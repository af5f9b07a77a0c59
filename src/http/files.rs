//! The files of HMD that are the same everywhere: the API document, its page, and what the dashboard's pages load. They are
//! deployed beside the Worker, as static assets, so that they are no part of what it loads for each message. They are read
//! through the Worker alone: who may see them, and with which headers, is said here.

/// A file of HMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticFile {
    /// The API document.
    OpenApi,
    /// The same as a page.
    Docs,
    /// The dashboard's style sheet.
    Style,
    /// The dashboard's script.
    Script,
    /// The dashboard's icon.
    Icon,
}

impl StaticFile {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::OpenApi,
        Self::Docs,
        Self::Style,
        Self::Script,
        Self::Icon,
    ];

    /// Its name in the directory of assets.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenApi => "openapi.json",
            Self::Docs => "docs.html",
            Self::Style => "dashboard.css",
            Self::Script => "dashboard.js",
            Self::Icon => "icon.svg",
        }
    }

    /// What it is served as.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenApi => "application/json",
            Self::Docs => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Icon => "image/svg+xml",
        }
    }

    /// What is in it: what the command puts beside the Worker, and what host tests serve.
    #[cfg(not(target_arch = "wasm32"))]
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::OpenApi => include_str!("../../schemas/openapi.json"),
            Self::Docs => include_str!("../../schemas/docs.html"),
            Self::Style => include_str!("dashboard/dashboard.css"),
            Self::Script => include_str!("dashboard/dashboard.js"),
            Self::Icon => include_str!("dashboard/icon.svg"),
        }
    }
}
