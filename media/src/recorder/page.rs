//! One Ogg page being written (RFC 3533 §6). Its memory is reused for the next one.
//!
//! No crate because `ogg` keeps an owned copy of every packet until its page is written: an allocation per frame.

/// Most segments in a page, each of up to 255 bytes.
const MOST_SEGMENTS: usize = 255;
const SEGMENT_BYTES: usize = 255;

/// Length of the header without the segment table.
const HEADER_BYTES: usize = 27;
const CHECKSUM_AT: usize = 22;

const FIRST_PAGE: u8 = 0x02;
const LAST_PAGE: u8 = 0x04;

/// RFC 3533 §6: the polynomial of the checksum, highest bit first.
const POLYNOMIAL: u32 = 0x04c1_1db7;
/// `CHECKSUMS[n][byte]` is that of a byte with `n` zero bytes behind it: eight bytes are one step instead of eight.
static CHECKSUMS: [[u32; 256]; 8] = checksums();

/// Packets that become one page. A packet never goes over into the next page.
pub(super) struct Page {
    serial: u32,
    number: u32,
    segments: Vec<u8>,
    body: Vec<u8>,
}

impl Page {
    /// The first page of a stream.
    pub(super) fn first(serial: u32) -> Self {
        Self { serial, number: 0, segments: Vec::new(), body: Vec::new() }
    }

    /// Whether a packet of this length fits. An empty page has room for 64 kB.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.segments.len() + bytes / SEGMENT_BYTES < MOST_SEGMENTS
    }

    /// Adds a packet given in parts. It must [fit](Self::has_room).
    pub(super) fn add(&mut self, parts: [&[u8]; 2]) {
        let start = self.body.len();
        parts.into_iter().for_each(|part| self.body.extend_from_slice(part));
        let bytes = self.body.len() - start;
        self.segments.extend(std::iter::repeat_n(SEGMENT_BYTES as u8, bytes / SEGMENT_BYTES));
        self.segments.push((bytes % SEGMENT_BYTES) as u8);
    }

    /// Appends the finished page to `out` and starts the next one. `granule` is the position at the end of its last packet.
    pub(super) fn close(&mut self, granule: u64, is_last: bool, out: &mut Vec<u8>) {
        let flags = if self.number == 0 { FIRST_PAGE } else { 0 } | if is_last { LAST_PAGE } else { 0 };
        let start = out.len();
        out.reserve_exact(HEADER_BYTES + self.segments.len() + self.body.len());
        out.extend_from_slice(b"OggS\0");
        out.push(flags);
        out.extend_from_slice(&granule.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.push(self.segments.len() as u8);
        out.append(&mut self.segments);
        out.append(&mut self.body);
        let checksum = checksum(&out[start..]).to_le_bytes();
        out[start + CHECKSUM_AT..start + CHECKSUM_AT + checksum.len()].copy_from_slice(&checksum);
        self.number = self.number.wrapping_add(1);
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let sum = eights.iter().fold(0_u32, |sum, eight| {
        let [a, b, c, d] = sum.to_be_bytes();
        let [e, f, g, h, i, j, k, l] = *eight;
        let steps = [a ^ e, b ^ f, c ^ g, d ^ h, i, j, k, l];
        steps.into_iter().zip(CHECKSUMS.iter().rev()).fold(0, |sum, (byte, table)| sum ^ table[usize::from(byte)])
    });
    rest.iter().fold(sum, |sum, byte| (sum << 8) ^ CHECKSUMS[0][usize::from((sum >> 24) as u8 ^ byte)])
}

const fn checksums() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum >> 31 == 1 { (sum << 1) ^ POLYNOMIAL } else { sum << 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[zeros - 1][byte];
            tables[zeros][byte] = (before << 8) ^ tables[0][(before >> 24) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use ogg::{PacketReader, PacketWriteEndInfo, PacketWriter};
    use proptest::prelude::*;

    proptest! {
        /// Another Ogg library writes the same bytes, and reads them.
        #[test]
        fn pages_are_as_the_standard_has_them(
            pages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 1..20), 1..5),
            serial: u32,
        ) {
            let mut theirs = PacketWriter::new(Vec::new());
            let (mut page, mut ours) = (Page::first(serial), Vec::new());
            for (number, packets) in pages.iter().enumerate() {
                for (index, packet) in packets.iter().enumerate() {
                    let end = match (index + 1 == packets.len(), number + 1 == pages.len()) {
                        (false, _) => PacketWriteEndInfo::NormalPacket,
                        (true, false) => PacketWriteEndInfo::EndPage,
                        (true, true) => PacketWriteEndInfo::EndStream,
                    };
                    theirs.write_packet(packet, serial, end, 960 * number as u64).unwrap();
                    prop_assert!(page.has_room(packet.len()));
                    let (one, other) = packet.split_at(packet.len() / 3);
                    page.add([one, other]);
                }
                page.close(960 * number as u64, number + 1 == pages.len(), &mut ours);
            }
            prop_assert_eq!(&ours, theirs.inner());
            let mut reader = PacketReader::new(std::io::Cursor::new(ours));
            for packet in pages.iter().flatten() {
                prop_assert_eq!(&reader.read_packet_expected().unwrap().data, packet);
            }
        }
    }

    #[test]
    fn a_page_is_full_before_its_segments_run_out() {
        let mut page = Page::first(1);
        let mut packets = 0;
        while page.has_room(1275 * 2) {
            page.add([&[1; 1275], &[2; 1275]]);
            packets += 1;
        }
        assert_eq!((packets, page.segments.len()), (23, 253));
        assert!(page.has_room(2 * 255 - 1) && !page.has_room(2 * 255));
    }
}
