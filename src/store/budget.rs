//! The call budget: one row for each of Cloudflare's tokens.

use super::connections::reseal_statement;
use super::row::{StoreError, number};
use crate::cloudflare::{Accounts, Correction, INSTALLATION, Resealed};
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::time::UnixMs;

// Claims add up, whoever makes them in the same moment; time that has passed unused is not saved up.
const CLAIM: &str = "INSERT INTO call_budgets (credential, total_us, checks_us, normal_us, looks_us)
    VALUES (?1, ?2 + ?3, ?2 + ?4, ?2 + ?5, ?2 + ?6)
    ON CONFLICT (credential) DO UPDATE SET total_us = max(total_us, ?2) + ?3, checks_us = max(checks_us, ?2) + ?4,
        normal_us = max(normal_us, ?2) + ?5, looks_us = max(looks_us, ?2) + ?6
    RETURNING total_us, checks_us, normal_us, looks_us";
const CORRECT: &str = "UPDATE call_budgets SET total_us = max(total_us + ?3, ?2), checks_us = max(checks_us + ?4, ?2),
        normal_us = max(normal_us + ?5, ?2), looks_us = max(looks_us + ?6, ?2)
    WHERE credential = ?1";
const COLUMNS: [&str; 4] = ["total_us", "checks_us", "normal_us", "looks_us"];

fn statement(sql: &'static str, credential: &str, (at_us, accounts): (i64, Accounts)) -> Statement {
    let mut params = vec![credential.into(), at_us.into()];
    params.extend(accounts.map(crate::pipeline::ports::Param::from));
    Statement::new(sql, params)
}

/// The statement that claims some of the budget of the installation's token; its row says how the accounts stand after that.
#[must_use]
pub fn claim_statement(now: UnixMs, claim_us: Accounts) -> Statement {
    claim_of(INSTALLATION, now, claim_us)
}

fn claim_of(credential: &str, now: UnixMs, claim_us: Accounts) -> Statement {
    statement(CLAIM, credential, (now.saturating_mul(1_000), claim_us))
}

/// What the row of a claim says.
pub(super) fn accounts(row: Option<&Row>) -> Result<Accounts, StoreError> {
    let missing = || StoreError::Row("a claim on the call budget has no answer".to_owned());
    let row = row.ok_or_else(missing)?;
    let mut accounts = Accounts::default();
    for (account, column) in accounts.iter_mut().zip(COLUMNS) {
        *account = number(row, column).ok_or_else(missing)?;
    }
    Ok(accounts)
}

/// Claims some of a credential's budget by itself.
///
/// # Errors
/// [`StoreError`]
pub async fn claim(
    sql: &impl Sql,
    credential: &str,
    now: UnixMs,
    claim_us: Accounts,
) -> Result<Accounts, StoreError> {
    let claim = claim_of(credential, now, claim_us);
    let rows = sql.batch(vec![claim]).await?;
    accounts(rows.iter().flatten().next())
}

/// The statement that corrects what was claimed of a credential's budget to what was spent.
#[must_use]
pub fn correct_statement(credential: &str, correction: Correction) -> Statement {
    statement(
        CORRECT,
        credential,
        (correction.at_least_us, correction.add_us),
    )
}

/// Corrects budgets by itself, and stores tokens that were sealed anew.
///
/// # Errors
/// [`StoreError`]
pub async fn correct(
    sql: &impl Sql,
    corrections: &[(&str, Correction)],
    resealed: &[Resealed],
) -> Result<(), StoreError> {
    let corrections = corrections
        .iter()
        .map(|(credential, correction)| correct_statement(credential, *correction));
    let statements = corrections.chain(resealed.iter().map(reseal_statement));
    sql.batch(statements.collect()).await?;
    Ok(())
}
