//! `[recordings]`: where recordings go, and how long they stay.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::read::Section;
use crate::address::is_nearby;

/// Enough for a day of records and events, and for what a container's disk needs to go on.
const USUAL_MIN_FREE_BYTES: u64 = 200_000_000;

/// Where recordings go.
#[derive(Debug, Clone)]
pub struct Recordings {
    /// A folder.
    pub dir: PathBuf,
    /// The archive that finished recordings are sent to.
    pub upload: Option<Upload>,
    /// Whether the file in the folder stays when the archive has it.
    pub keep_local: bool,
    /// Files in the folder are deleted when they are older.
    pub max_age: Option<Duration>,
    /// While less is free on the folder's disk, nothing is recorded.
    pub min_free_bytes: u64,
}

/// An archive.
#[derive(Debug, Clone)]
pub enum Upload {
    /// Another folder, such as a mounted disk.
    Folder(PathBuf),
    /// A bucket of S3, or of something that speaks like it.
    S3(S3),
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// The prefix of the files' names, without slashes around it.
    pub prefix: String,
    /// `None` is Amazon's.
    pub endpoint: Option<Url>,
    /// Part of every signature.
    pub region: String,
    /// `None` asks the machine's role (EC2, ECS, EKS).
    pub keys: Option<S3Keys>,
}

/// What authorises the uploads.
#[derive(Debug, Clone)]
pub struct S3Keys {
    /// The key's id.
    pub access_key: SecretString,
    /// The key.
    pub secret_key: SecretString,
}

impl Recordings {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let dir = section.text("dir", |text| match text {
            "" => Err("give a path".to_owned()),
            text => Ok(PathBuf::from(text)),
        });
        let upload = section.text("upload", upload);
        let endpoint = section.text("upload_endpoint", endpoint);
        let region = section.text("upload_region", region);
        let access_key = section.secret("upload_access_key");
        let secret_key = section.secret("upload_secret_key");
        let keep_local = section.flag("keep_local").unwrap_or(true);
        let max_age = section.duration("max_age", TEN_YEARS);
        let min_free_bytes = section.text("min_free", size_bytes).unwrap_or(USUAL_MIN_FREE_BYTES);
        if access_key.is_some() != secret_key.is_some() {
            let missing = if access_key.is_some() { "upload_secret_key" } else { "upload_access_key" };
            section.note(missing, None, "it is missing; give both upload_access_key and upload_secret_key, or none");
        }
        if !keep_local && upload.is_none() {
            section.note("keep_local", Some("false".to_owned()), "without upload no recording would be left");
        }
        section.end();
        let upload = upload.map(|upload| match upload {
            Upload::S3(s3) => Upload::S3(S3 {
                endpoint,
                region: region.unwrap_or(s3.region),
                keys: access_key.zip(secret_key).map(|(access_key, secret_key)| S3Keys { access_key, secret_key }),
                ..s3
            }),
            folder @ Upload::Folder(_) => folder,
        });
        let dir = dir.unwrap_or_else(|| PathBuf::from("recordings"));
        Self { dir, upload, keep_local, max_age, min_free_bytes }
    }
}

/// A whole number and its unit.
pub(super) fn size_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
    size.ok_or_else(|| "give a size such as \"200 MB\" or \"2 GB\"".to_owned())
}

fn upload(text: &str) -> Result<Upload, String> {
    let wrong = || "give an archive such as \"s3://bucket/prefix\" or \"file:///mnt/archive\"".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    match (url.scheme(), url.host_str()) {
        _ if !is_plain => Err(wrong()),
        ("file", None) => url.to_file_path().map(Upload::Folder).map_err(|()| wrong()),
        ("s3", Some(bucket)) => Ok(Upload::S3(S3 {
            bucket: bucket.to_owned(),
            prefix: url.path().trim_matches('/').to_owned(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            keys: None,
        })),
        _ => Err(wrong()),
    }
}

/// Voices and keys travel there, so clear text is for this machine and private networks only.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = super::web_url(text, "https://s3.example.com")?;
    if url.scheme() == "http" && !is_nearby(&url) {
        return Err("http:// would carry recordings in the clear through the internet: use https://".to_owned());
    }
    Ok(url)
}

fn region(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if text.is_empty() || !is_plain {
        return Err("give a region such as \"eu-central-1\"".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_and_its_unit() {
        assert_eq!(size_bytes("200 MB"), Ok(200_000_000));
        assert_eq!(size_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(size_bytes("0 MB"), Ok(0));
        for wrong in ["", "MB", "200", "200 TB", "-1 MB", "1.5 GB", "2 G B", "99999999999999 GB", "é MB"] {
            assert!(size_bytes(wrong).is_err_and(|advice| advice.contains("200 MB")), "{wrong}");
        }
    }
}
