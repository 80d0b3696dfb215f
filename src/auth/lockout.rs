//! Keeps CloudStack from disabling a user: it does so after five wrong passwords since the last
//! right one, and clients repeat a wrong password without end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The wrong passwords of one user that CloudStack has seen from here.
#[derive(Debug, Default)]
pub(super) struct Tries(VecDeque<Instant>);

impl Tries {
    /// Whether CloudStack may be asked; otherwise how long not.
    pub(super) fn allowed(&mut self, now: Instant) -> Result<(), Duration> {
        self.0.retain(|wrong| now.duration_since(*wrong) < WINDOW);
        match (self.0.len() < WRONG_PER_WINDOW, self.0.front()) {
            (false, Some(first)) => Err(WINDOW - now.duration_since(*first)),
            _ => Ok(()),
        }
    }

    pub(super) fn wrong(&mut self, now: Instant) {
        self.0.push_back(now);
    }

    /// A right password sets CloudStack's counter back, so ours too.
    pub(super) fn right(&mut self) {
        self.0.clear();
    }
}

/// A name and password that CloudStack refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    times: u32,
    until: Instant,
}

impl Failure {
    /// After another refusal of the same pair. A client that never learns reaches CloudStack at
    /// growing distances only: five times take it hours, not minutes.
    pub(super) fn again(earlier: Option<Self>, now: Instant, first: Duration) -> Self {
        let times = earlier.map_or(0, |failure| failure.times) + 1;
        let hold = first.saturating_mul(GROWTH.saturating_pow(times - 1)).min(LONGEST_HOLD);
        Self { times, until: now + hold }
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// Two below CloudStack's five: somebody may have mistyped in its own user interface too.
const WRONG_PER_WINDOW: usize = 3;
const WINDOW: Duration = Duration::from_mins(15);
const GROWTH: u32 = 4;

/// A pair that was refused often is looked at once a day.
pub(super) const LONGEST_HOLD: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_wrong_passwords_per_window() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            assert_eq!(tries.allowed(now), Ok(()));
            tries.wrong(now);
        }
        assert_eq!(tries.allowed(start + Duration::from_mins(5)), Err(Duration::from_mins(10)));
        assert_eq!(tries.allowed(start + WINDOW), Ok(()));
        tries.wrong(start + WINDOW);
        assert_eq!(tries.allowed(start + WINDOW), Err(Duration::from_secs(1)));
        tries.right();
        assert_eq!(tries.allowed(start + WINDOW), Ok(()));
    }

    #[test]
    fn the_same_wrong_password_is_asked_ever_more_rarely() {
        let (start, first) = (Instant::now(), Duration::from_mins(5));
        let (mut now, mut failure, mut asked) = (start, None, 0);
        // A client that repeats the same wrong password every minute for six hours.
        while now < start + Duration::from_hours(6) {
            if !failure.is_some_and(|failure: Failure| failure.holds(now)) {
                asked += 1;
                failure = Some(Failure::again(failure, now, first));
            }
            now += Duration::from_mins(1);
        }
        assert_eq!(asked, 4);
        let many = (0..40).fold(None, |failure, _| Some(Failure::again(failure, start, first)));
        assert!(
            many.is_some_and(|f| f.holds(start + Duration::from_hours(23)) && !f.holds(start + LONGEST_HOLD))
        );
    }
}
