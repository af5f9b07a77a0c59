//! Parameters of the operations.

use schemars::json_schema;

use super::operation::{Parameter, Place, schema};
use crate::http::deliveries::DeliveryState;
use crate::release::State;
use crate::time::Rfc3339;

/// `If-None-Match` of a read.
pub const IF_CHANGED: Parameter = Parameter {
    name: "If-None-Match",
    place: Place::Header,
    description: "ETags of earlier answers: if the revision is still one of them, the answer is 304 without a body.",
    schema: |_| json_schema!({"type": "string", "examples": ["\"31\""]}),
};

/// `If-Match` of a write.
pub const IF_MATCH: Parameter = Parameter {
    name: "If-Match",
    place: Place::Header,
    description: "The ETag of an earlier answer: nothing is changed unless the plan still has that revision. `*`: unless it exists.",
    schema: |_| json_schema!({"type": "string", "examples": ["\"3\""]}),
};

/// `If-None-Match` of a write.
pub const IF_NEW: Parameter = Parameter {
    name: "If-None-Match",
    place: Place::Header,
    description: "`*`: the plan is saved only if there is none of this name.",
    schema: |_| json_schema!({"type": "string", "const": "*"}),
};

/// `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    description: "A text of the caller's own, such as a CI run's id: the same request sent again with it gets the first answer again and creates nothing.",
    schema: |_| json_schema!({"type": "string", "minLength": 1, "maxLength": 255}),
};

/// What signs a message to a hook.
pub const SIGNED: [Parameter; 3] = [
    Parameter {
        name: "webhook-id",
        place: Place::SignedHeader,
        description: "The message: 1 to 255 visible characters without a full stop. The same message sent again has the same id, and gets the first answer again for a day.",
        schema: |_| json_schema!({"type": "string", "minLength": 1, "maxLength": 255, "examples": ["msg_run-1871"]}),
    },
    Parameter {
        name: "webhook-timestamp",
        place: Place::SignedHeader,
        description: "When it was signed, in seconds since 1970; taken for 5 minutes either way.",
        schema: |_| json_schema!({"type": "string", "pattern": "^[0-9]+$", "examples": ["1790845200"]}),
    },
    Parameter {
        name: "webhook-signature",
        place: Place::SignedHeader,
        description: "One or more signatures, separated by spaces.",
        schema: |_| json_schema!({"type": "string", "examples": ["v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="]}),
    },
];

/// `cursor`.
pub const CURSOR: Parameter = Parameter {
    name: "cursor",
    place: Place::Query,
    description: "`next_cursor` of the page before.",
    schema: |_| json_schema!({"type": "string"}),
};

/// `limit` of the evidence.
pub const WINDOWS: Parameter = Parameter {
    name: "limit",
    place: Place::Query,
    description: "Most windows on a page.",
    schema: |_| json_schema!({"type": "integer", "minimum": 1, "maximum": 200, "default": 200}),
};

/// What releases are listed by.
pub const FILTERS: [Parameter; 6] = [
    Parameter {
        name: "worker",
        place: Place::Query,
        description: "Only those of Workers with this script name.",
        schema: |_| json_schema!({"type": "string"}),
    },
    Parameter {
        name: "plan",
        place: Place::Query,
        description: "Only those of this plan.",
        schema: |_| json_schema!({"type": "string"}),
    },
    Parameter {
        name: "state",
        place: Place::Query,
        description: "Only those in this state.",
        schema: schema::<State>,
    },
    Parameter {
        name: "since",
        place: Place::Query,
        description: "Only those created at this time or later.",
        schema: schema::<Rfc3339>,
    },
    Parameter {
        name: "until",
        place: Place::Query,
        description: "Only those created before this time.",
        schema: schema::<Rfc3339>,
    },
    Parameter {
        name: "limit",
        place: Place::Query,
        description: "Most releases on a page.",
        schema: |_| json_schema!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    },
];

/// What deliveries are listed by.
pub const DELIVERY_FILTERS: [Parameter; 6] = [
    Parameter {
        name: "state",
        place: Place::Query,
        description: "Only those that stand so.",
        schema: schema::<DeliveryState>,
    },
    Parameter {
        name: "type",
        place: Place::Query,
        description: "Only those of events of this type.",
        schema: |_| json_schema!({"type": "string", "examples": ["stage.passed"]}),
    },
    Parameter {
        name: "release",
        place: Place::Query,
        description: "Only those about this release.",
        schema: |_| json_schema!({"type": "string"}),
    },
    Parameter {
        name: "since",
        place: Place::Query,
        description: "Only those of what happened at this time or later.",
        schema: schema::<Rfc3339>,
    },
    Parameter {
        name: "until",
        place: Place::Query,
        description: "Only those of what happened before this time.",
        schema: schema::<Rfc3339>,
    },
    Parameter {
        name: "limit",
        place: Place::Query,
        description: "Most deliveries on a page.",
        schema: |_| json_schema!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    },
];

/// A parameter of a path.
pub fn of_path(name: &'static str) -> Parameter {
    let (description, schema): (_, super::SchemaOf) = match name {
        "name" => (
            "Name of the plan.",
            |_| json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["shop"]}),
        ),
        "id" => (
            "Id of the release.",
            |_| json_schema!({"type": "string", "examples": ["rel_0192f0c1d2e37abc8def0123456789ab"]}),
        ),
        "n" => (
            "Number of the stage, from 1.",
            |_| json_schema!({"type": "integer", "minimum": 1, "examples": [2]}),
        ),
        "account_id" => (
            "The Cloudflare account.",
            |_| json_schema!({"type": "string", "examples": ["0123456789abcdef0123456789abcdef"]}),
        ),
        "subscriber" => (
            "Id of the subscriber.",
            |_| json_schema!({"type": "string", "examples": ["sub_0192f0c1d2e37abc8def0123456789ab"]}),
        ),
        "delivery" => (
            "Id of the delivery: the `webhook-id` of its requests.",
            |_| json_schema!({"type": "string", "examples": ["msg_0192f0c1d2e37abc8def0123456789ab_4"]}),
        ),
        "token" => (
            "What the link was signed with.",
            |_| json_schema!({"type": "string", "maxLength": 300}),
        ),
        _ => (
            "Script name of the Worker.",
            |_| json_schema!({"type": "string", "examples": ["shop"]}),
        ),
    };
    Parameter {
        name,
        place: Place::Path,
        description,
        schema,
    }
}
