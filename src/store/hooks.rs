//! Secrets of inbound hooks, and what was answered to a message.

use super::row::{StoreError, number, text};
use crate::pipeline::ports::{Param, Row, Sql, SqlError, Statement};
use crate::time::UnixMs;

// A rotation is one transaction. Sent again after an unknown outcome it changes nothing more, since its id is there.
const EXPIRE: &str =
    "UPDATE hook_secrets SET expires_at = ?3 WHERE plan = ?1 AND expires_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM hook_secrets own WHERE own.id = ?2)";
const INSERT: &str = "INSERT INTO hook_secrets (id, plan, sealed, created_at, expires_at)
    SELECT ?2, name, ?3, ?4, NULL FROM plans WHERE name = ?1 ON CONFLICT (id) DO NOTHING";
// However often somebody rotates within the grace: each message is checked against all that are left.
const TRIM: &str = "DELETE FROM hook_secrets WHERE plan = ?1 AND (expires_at <= ?2 OR id NOT IN
    (SELECT id FROM hook_secrets WHERE plan = ?1 ORDER BY created_at DESC, id DESC LIMIT 10))";
const ROTATED: &str = "SELECT own.id, (SELECT MAX(expires_at) FROM hook_secrets other WHERE other.plan = own.plan) AS until
    FROM hook_secrets own WHERE own.id = ?1";
const VALID: &str = "SELECT id, sealed FROM hook_secrets WHERE plan = ?1 AND (expires_at IS NULL OR expires_at > ?2)
    ORDER BY created_at DESC, id DESC";
const REVOKE: &str = "DELETE FROM hook_secrets WHERE plan = ?1 RETURNING id";
const REFUSE: &str = "INSERT INTO idempotency_keys (key, body, answer, status, release, at) VALUES (?1, ?2, ?3, ?4, '', ?5)
    ON CONFLICT (key) DO NOTHING";

/// How often an unknown outcome is looked up and the same sent again.
const TRIES: usize = 3;

/// A fresh secret of a plan's hook.
#[derive(Debug)]
pub struct NewHookSecret<'a> {
    /// The plan.
    pub plan: &'a str,
    /// A fresh id.
    pub id: &'a str,
    /// The secret, sealed for that id.
    pub sealed: &'a str,
    /// When.
    pub now: UnixMs,
    /// How long those before it stay valid.
    pub previous_until: UnixMs,
}

/// What became of a rotation.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Until when secrets before it are valid, if there are any.
    pub previous_until: Option<UnixMs>,
}

/// Makes a secret the current one of its plan. `None`: there is no such plan.
///
/// # Errors
/// [`StoreError`]
pub async fn rotate_hook_secret(
    sql: &impl Sql,
    new: &NewHookSecret<'_>,
) -> Result<Option<Rotated>, StoreError> {
    let (plan, id): (Param, Param) = (new.plan.into(), new.id.into());
    let statements = || {
        vec![
            Statement::new(
                EXPIRE,
                vec![plan.clone(), id.clone(), new.previous_until.into()],
            ),
            Statement::new(
                INSERT,
                vec![plan.clone(), id.clone(), new.sealed.into(), new.now.into()],
            ),
            Statement::new(TRIM, vec![plan.clone(), new.now.into()]),
            Statement::new(ROTATED, vec![id.clone()]),
        ]
    };
    let mut error = SqlError("it was not tried".to_owned());
    for _ in 0..TRIES {
        match sql.batch(statements()).await {
            Ok(rows) => {
                let row = rows.last().and_then(|rows| rows.first());
                return Ok(row.map(|row| Rotated {
                    previous_until: number(row, "until"),
                }));
            }
            Err(failed) => error = failed,
        }
    }
    Err(error.into())
}

/// A sealed secret with the id that it is sealed for.
#[derive(Debug)]
pub struct SealedSecret {
    /// The id.
    pub id: String,
    /// The seal.
    pub sealed: String,
}

/// The secrets of a plan's hook that are valid at a moment, newest first.
///
/// # Errors
/// [`StoreError`]
pub async fn hook_secrets(
    sql: &impl Sql,
    plan: &str,
    now: UnixMs,
) -> Result<Vec<SealedSecret>, StoreError> {
    let statement = Statement::new(VALID, vec![plan.into(), now.into()]);
    let rows = sql.batch(vec![statement]).await?;
    let secret = |row: &Row| {
        Ok(SealedSecret {
            id: text(row, "id")?.to_owned(),
            sealed: text(row, "sealed")?.to_owned(),
        })
    };
    rows.iter().flatten().map(secret).collect()
}

/// Ends all secrets of a plan's hook at once; false if there was none.
///
/// # Errors
/// [`StoreError`]
pub async fn revoke_hook_secrets(sql: &impl Sql, plan: &str) -> Result<bool, StoreError> {
    let statement = Statement::new(REVOKE, vec![plan.into()]);
    let rows = sql.batch(vec![statement]).await?;
    Ok(rows.iter().flatten().next().is_some())
}

/// Remembers that a request was refused, unless it has an answer already.
///
/// # Errors
/// [`StoreError`]
pub async fn remember_refusal(
    sql: &impl Sql,
    key: &str,
    (body, answer): (&str, &str),
    status: u16,
    now: UnixMs,
) -> Result<(), StoreError> {
    let params = vec![
        key.into(),
        body.into(),
        answer.into(),
        i64::from(status).into(),
        now.into(),
    ];
    sql.batch(vec![Statement::new(REFUSE, params)]).await?;
    Ok(())
}
