//! Where a function changes its sign.

/// How near is near enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    /// The two ends lie no further apart than this.
    pub(super) apart: f64,
    /// Or the value is no further from zero than this.
    pub(super) value: f64,
    /// At most so many values are asked for.
    pub(super) rounds: usize,
}

/// Where `f` becomes positive between two points and their values, `inside` below zero and `outside` not: by false position
/// after Illinois, where halving the end that stays keeps the other moving.
pub(super) fn between(
    mut inside: (f64, f64),
    mut outside: (f64, f64),
    near: Near,
    f: impl Fn(f64) -> f64,
) -> f64 {
    let (mut kept_in, mut kept_out) = (inside.1, outside.1);
    for _ in 0..near.rounds {
        if (outside.0 - inside.0).abs() < near.apart {
            break;
        }
        let at = inside.0 - kept_in * (outside.0 - inside.0) / (kept_out - kept_in);
        let value = f(at);
        if value.abs() < near.value {
            return at;
        }
        if value >= 0.0 {
            outside = (at, value);
            kept_out = value;
            kept_in /= 2.0;
        } else {
            inside = (at, value);
            kept_in = value;
            kept_out /= 2.0;
        }
    }
    outside.0
}
