//! The figures of one topic, beside their limits.

use std::fmt;

/// Figures in the order in which they are shown.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Row {
    figure: String,
    measured: f64,
    unit: &'static str,
    goal: Goal,
}

/// The limit of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Not more than so many times this floor, measured in the same run.
    TimesFloor {
        /// The cheapest that this machine can do.
        floor: f64,
        /// The greatest ratio that is wanted.
        most: f64,
    },
    /// Informational, without a limit.
    Shown,
    /// Shown beside its floor, without a limit.
    Beside(f64),
}

impl Table {
    /// Adds a figure.
    pub fn row(&mut self, figure: impl Into<String>, measured: f64, unit: &'static str, goal: Goal) {
        self.rows.push(Row { figure: figure.into(), measured, unit, goal });
    }

    /// Adds a line below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.figure.chars().count()).max().unwrap_or(0).max(6);
        writeln!(f, "  {:width$}  {:>12}  {:>16}  {:>6}", "figure", "measured", "floor or limit", "ratio")?;
        for row in &self.rows {
            row.write(f, width)?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let measured = amount(self.measured, self.unit);
        let (goal, ratio, is_met) = match self.goal {
            Goal::AtMost(limit) => {
                (format!("≤ {}", amount(limit, self.unit)), self.measured / limit, Some(self.measured <= limit))
            }
            Goal::AtLeast(limit) => {
                (format!("≥ {}", amount(limit, self.unit)), self.measured / limit, Some(self.measured >= limit))
            }
            Goal::TimesFloor { floor, most } => {
                let ratio = self.measured / floor;
                (format!("{most} × {}", amount(floor, self.unit)), ratio, Some(ratio <= most))
            }
            Goal::Shown => (String::new(), f64::NAN, None),
            Goal::Beside(floor) => (amount(floor, self.unit), self.measured / floor, None),
        };
        let ratio = if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") };
        let verdict = match is_met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let line = format!("  {:width$}  {measured:>12}  {goal:>16}  {ratio:>6}  {verdict}", self.figure);
        writeln!(f, "{}", line.trim_end())
    }
}

fn amount(value: f64, unit: &str) -> String {
    let places = match value.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    if unit.is_empty() { format!("{value:.places$}") } else { format!("{value:.places$} {unit}") }
}

/// The value below which this share of the values lies, from 0 to 1. The values are put in order.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
