//! Releases, and the one way to write to them.

mod alarms;
mod commit;
mod dead_letters;
mod idempotency;
mod load;
mod params;
mod queries;

pub use alarms::{Alarm, due_alarms, queued_alarms};
pub(super) use commit::decided;
pub use commit::{Committed, commit, commit_statements, create, delete_staged};
pub use dead_letters::{DeadLetter, dead_letters};
pub use idempotency::{Idempotency, Remembered, forget_keys, remembered};
pub use load::{Loaded, load};
pub(super) use load::{load_one, release};
pub(super) use params::chunks;
pub use params::{CommitPart, Write};
pub use queries::{
    ReleaseFilter, StoredEvent, contenders, events, has_active, last_seen, list, windows,
};
