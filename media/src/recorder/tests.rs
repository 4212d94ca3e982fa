use super::*;
#[test] fn x(){ let mut r=Recorder::new(1); r.agent_frame(0,&SILENCE,Instant::now()); assert_eq!(r.duration(),FRAME); }
