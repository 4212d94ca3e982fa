//! G.711: mu-law and A-law, 8000 samples a second, one byte each (ITU-T G.711).
//!
//! No crate: it is two formulas. They are those of the ITU's reference code (G.191, module G711), to the bit.

/// Which of the two laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// PCMU.
    Mu,
    /// PCMA.
    A,
}

static MU_TO_LINEAR: [i16; 256] = table(Law::Mu);
static A_TO_LINEAR: [i16; 256] = table(Law::A);

impl Law {
    /// The sample of a byte. Full scale is 32124 in mu-law and 32256 in A-law.
    pub fn decode(self, byte: u8) -> i16 {
        match self {
            Self::Mu => MU_TO_LINEAR[usize::from(byte)],
            Self::A => A_TO_LINEAR[usize::from(byte)],
        }
    }

    /// The byte whose interval contains the sample.
    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => linear_to_mu(sample),
            Self::A => linear_to_a(sample),
        }
    }

    /// The byte of silence.
    pub fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xff,
            Self::A => 0xd5,
        }
    }
}

/// Indexed by the byte.
const fn table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match law {
            Law::Mu => mu_to_linear(byte as u8),
            Law::A => a_to_linear(byte as u8),
        };
        byte += 1;
    }
    table
}

fn linear_to_mu(sample: i16) -> u8 {
    // 14 bits and the bias, up to the end of the last segment.
    let size = ((magnitude(sample) >> 2) + 33).min(0x1fff);
    let segment = (size >> 5).ilog2() + 1;
    let byte = ((8 - segment) << 4) | (0x0f - ((size >> segment) & 0x0f));
    byte as u8 | if sample < 0 { 0 } else { 0x80 }
}

fn linear_to_a(sample: i16) -> u8 {
    let size = magnitude(sample) >> 4;
    let byte = match size {
        0..=15 => size,
        _ => {
            let exponent = size.ilog2() - 3;
            (exponent << 4) | ((size >> (exponent - 1)) & 0x0f)
        }
    };
    (byte as u8 | if sample < 0 { 0 } else { 0x80 }) ^ 0x55
}

/// The reference takes the ones' complement of a negative sample, so that -1 mirrors 0.
fn magnitude(sample: i16) -> u32 {
    u32::from(if sample < 0 { !sample } else { sample }.unsigned_abs())
}

const fn mu_to_linear(byte: u8) -> i16 {
    let inverted = !byte;
    let (exponent, mantissa) = ((inverted >> 4) & 7, (inverted & 0x0f) as i16);
    let size = (((mantissa << 3) + 132) << exponent) - 132;
    if inverted & 0x80 == 0 { size } else { -size }
}

const fn a_to_linear(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = ((byte >> 4) & 7, (byte & 0x0f) as i16);
    let size = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 264) << (exponent - 1),
    };
    if byte & 0x80 == 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAWS: [Law; 2] = [Law::Mu, Law::A];

    /// ITU-T G.711, tables 1 and 2: full scale, zero, and the borders of the first segments.
    #[test]
    fn the_values_are_those_of_the_recommendation() {
        for (byte, sample) in
            [(0x80, 32_124), (0x00, -32_124), (0xff, 0), (0x7f, 0), (0xfe, 8), (0x7e, -8), (0xef, 132), (0x8f, 16_764)]
        {
            assert_eq!(Law::Mu.decode(byte), sample, "{byte:#x}");
        }
        for (byte, sample) in [
            (0xaa, 32_256),
            (0x2a, -32_256),
            (0xd5, 8),
            (0x55, -8),
            (0xd4, 24),
            (0xc5, 264),
            (0x80, 5504),
            (0x00, -5504),
        ] {
            assert_eq!(Law::A.decode(byte), sample, "{byte:#x}");
        }
    }

    /// ITU-T G.711, tables 5 and 6: the bytes of a sine of 1 kHz at 0 dBm0, which lies 3.17 and 3.14 dB below full scale.
    #[test]
    fn the_digital_milliwatt_is_a_sine_of_the_right_level() {
        let mu = [0x1e, 0x0b, 0x0b, 0x1e, 0x9e, 0x8b, 0x8b, 0x9e];
        let a = [0x34, 0x21, 0x21, 0x34, 0xb4, 0xa1, 0xa1, 0xb4];
        for (law, bytes, full_scale) in [(Law::Mu, mu, 8159.0 * 4.0), (Law::A, a, 4096.0 * 8.0)] {
            let samples = bytes.map(|byte| law.decode(byte));
            assert_eq!(samples.map(|sample| law.encode(sample)), bytes);
            let square: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / 8.0;
            let level_db = 20.0 * (square.sqrt() * 2f64.sqrt() / full_scale).log10();
            let expected_db = if law == Law::Mu { -317 } else { -314 };
            assert!((level_db * 100.0 - f64::from(expected_db)).abs() < 2.0, "{law:?}: {level_db} dB");
        }
    }

    #[test]
    fn a_byte_survives_decoding_and_encoding_but_for_the_negative_zero() {
        for law in LAWS {
            for byte in 0..=255 {
                let again = law.encode(law.decode(byte));
                let is_negative_zero = law == Law::Mu && byte == 0x7f;
                assert_eq!(again, if is_negative_zero { 0xff } else { byte }, "{law:?} {byte:#x}");
            }
            assert!(law.decode(law.silence()) <= 8);
        }
    }

    #[test]
    fn encoding_rises_with_the_sample_and_errs_by_half_a_step_at_most() {
        for law in LAWS {
            let mut before = i16::MIN;
            for sample in i16::MIN..=i16::MAX {
                let decoded = law.decode(law.encode(sample));
                assert!(decoded >= before, "{law:?} {sample}");
                before = decoded;
                let error = i32::from(decoded).abs_diff(i32::from(sample));
                let allowed = 16 + u32::from(sample.unsigned_abs()) / 31;
                assert!(error <= allowed, "{law:?} {sample}: {decoded}");
            }
        }
    }
}
