//! Core dumps are off, because the memory of this process has access tokens, keys and audio.

/// Turns them off for this process, and keeps other processes of the same user from reading its memory.
#[cfg(target_os = "linux")]
pub fn turn_off() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // A core that is piped to a program knows no limit, and a file that is written by the kernel may know no dumpability.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// On other systems the operator must do it.
#[cfg(not(target_os = "linux"))]
pub fn turn_off() -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn the_kernel_writes_no_core_of_this_process() {
        super::turn_off().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
