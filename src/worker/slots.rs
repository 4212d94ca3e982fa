//! The timer of the tick's slots.

use std::io;
use std::time::{Duration, Instant};

/// Slots of equal length, without gaps.
pub(super) struct Slots {
    timer: Timer,
    length: Duration,
    /// When the next slot is due.
    next_at: Instant,
    /// Slots that are due and were not given yet.
    due: u64,
}

impl Slots {
    /// The timer is off until [`Slots::start`]. Must be called inside the runtime.
    pub fn new(length: Duration) -> io::Result<Self> {
        Ok(Self { timer: Timer::new()?, length, next_at: clock::now(), due: 0 })
    }

    /// The first slot is due one length from now.
    pub fn start(&mut self) -> io::Result<()> {
        (self.next_at, self.due) = (clock::now() + self.length, 0);
        self.timer.set(self.length)
    }

    /// No slot is due until the timer is started again.
    pub fn stop(&mut self) -> io::Result<()> {
        self.timer.set(Duration::ZERO)
    }

    /// Waits for the next slot. Gives the time at which it was due, and the number of slots skipped before it: after a
    /// stall at most `most` are made up for.
    pub async fn next(&mut self, most: u64) -> io::Result<(Instant, u64)> {
        if self.due == 0 {
            self.due = self.timer.periods().await?;
        }
        let left_out = self.due.saturating_sub(most);
        let at = self.next_at + self.length * u32::try_from(left_out).unwrap_or(u32::MAX);
        self.due -= left_out + 1;
        self.next_at = at + self.length;
        Ok((at, left_out))
    }
}

#[cfg(target_os = "linux")]
use kernel::Timer;
#[cfg(not(target_os = "linux"))]
use runtime::Timer;

use crate::clock;

/// The kernel's timer. The runtime's counts whole milliseconds and is late by up to one, by a different part of it each
/// time, which a caller gets as jitter.
#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use rustix::time::{timerfd_create, timerfd_settime};
    use tokio::io::unix::AsyncFd;

    pub struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that others may close; no one else has this one"
        )]
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?).map(Self)
        }

        /// Zero turns the timer off.
        pub fn set(&self, period: Duration) -> io::Result<()> {
            let period = Timespec::try_from(period).map_err(io::Error::other)?;
            let periods = Itimerspec { it_interval: period, it_value: period };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &periods)?;
            Ok(())
        }

        /// The number of periods since the last call; waits for the first.
        pub async fn periods(&mut self) -> io::Result<u64> {
            loop {
                let mut ready = self.0.readable().await?;
                let mut count = [0; size_of::<u64>()];
                let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
                // Otherwise the timer was set again after it woke us.
                if let Ok(read) = read {
                    read?;
                    return Ok(u64::from_ne_bytes(count));
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod runtime {
    use std::io;
    use std::time::Duration;

    use tokio::time::{Interval, interval};

    #[derive(Default)]
    pub struct Timer(Option<Interval>);

    impl Timer {
        pub fn new() -> io::Result<Self> {
            Ok(Self::default())
        }

        /// Zero turns the timer off.
        pub fn set(&mut self, period: Duration) -> io::Result<()> {
            self.0 = (!period.is_zero()).then(|| interval(period));
            if let Some(interval) = &mut self.0 {
                interval.reset();
            }
            Ok(())
        }

        /// Waits for the next one; those that were missed are given one by one.
        pub async fn periods(&mut self) -> io::Result<u64> {
            match &mut self.0 {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
            Ok(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(2);

    #[tokio::test]
    async fn slots_are_one_length_apart_and_never_early() -> io::Result<()> {
        let mut slots = Slots::new(LENGTH)?;
        slots.start()?;
        let mut last = None;
        for _ in 0..20 {
            let (at, left_out) = slots.next(u64::MAX).await?;
            assert_eq!(left_out, 0);
            assert!(Instant::now() >= at);
            assert!(last.is_none_or(|last| at == last + LENGTH));
            last = Some(at);
        }
        Ok(())
    }

    #[tokio::test]
    async fn after_a_stall_the_oldest_are_left_out() -> io::Result<()> {
        let mut slots = Slots::new(LENGTH)?;
        slots.start()?;
        let (mut first, _) = slots.next(10).await?;
        // The machine may have stalled before.
        while slots.due > 0 {
            first = slots.next(10).await?.0;
        }
        while first.elapsed() < 40 * LENGTH {
            std::hint::spin_loop();
        }
        let (at, left_out) = slots.next(10).await?;
        assert!(left_out >= 29, "{left_out}");
        assert_eq!(at, first + LENGTH * (left_out as u32 + 1));
        for step in 1..10 {
            assert_eq!(slots.next(10).await?, (at + LENGTH * step, 0));
        }
        Ok(())
    }

    #[tokio::test]
    async fn stopped_slots_begin_anew() -> io::Result<()> {
        let mut slots = Slots::new(LENGTH)?;
        slots.start()?;
        slots.next(1).await?;
        slots.stop()?;
        let started = Instant::now();
        slots.start()?;
        assert!(slots.next(1).await?.0 >= started + LENGTH);
        Ok(())
    }
}
