//! The task as sessions and pages see it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{
    AgentNews, AnswerError, Attendance, Command, Desk, QueueSetup, QueuesHandle, RELOAD, Ticket, TicketNews,
    WaitingRoom,
};
use crate::call::Attempt;
use crate::call::event::CallId;
use crate::queue::{
    Entry, NotOffered, OverflowReason, PlaceId, Progress, QueueName, QueueOptions, RingEnd, SignIn, Unstaffed, Wanted,
};

const SECOND: Duration = Duration::from_secs(1);

fn handle() -> QueuesHandle {
    QueuesHandle::start([setup()], &Default::default()).0
}

fn setup() -> (QueueName, QueueSetup) {
    let options = QueueOptions {
        ring_timeout: 20 * SECOND,
        wrap_up: Duration::ZERO,
        max_waiting: 1,
        max_wait: 300 * SECOND,
        unstaffed: Unstaffed::Wait,
        sticky_for: Duration::ZERO,
        announce_every: None,
        service_level: 20 * SECOND,
        max_missed: 3,
    };
    let room = WaitingRoom { hold: "hold".to_owned(), announce: "position".to_owned(), skills: Default::default() };
    ("support".into(), QueueSetup { options, room, sip_users: Default::default() })
}

async fn enters(handle: &QueuesHandle, call: &CallId) -> anyhow::Result<Ticket> {
    let place = PlaceId { call: call.clone(), attempt: Attempt::new(0) };
    let wanted = Wanted::AnyOf { queue: "support".into(), skills: Default::default() };
    Ok(handle.enter(Entry { place, wanted, caller: None }).await?)
}

async fn attends(handle: &QueuesHandle, agent: &str) -> anyhow::Result<Attendance> {
    let sign_in = SignIn { agent: agent.into(), queues: ["support".into()].into(), skills: Default::default() };
    Ok(handle.attend(sign_in).await?)
}

/// The next news that is no state.
async fn next(page: &mut Attendance) -> Option<AgentNews> {
    loop {
        match page.next().await? {
            AgentNews::State(_) => {}
            news => return Some(news),
        }
    }
}

/// The call that rings next.
async fn rings(page: &mut Attendance) -> Option<CallId> {
    match next(page).await? {
        AgentNews::Ringing(ring) => Some(ring.call),
        news => panic!("{news:?}"),
    }
}

/// The next news that is no event.
async fn decided(ticket: &mut Ticket) -> Option<TicketNews> {
    loop {
        match ticket.next().await? {
            TicketNews::Progress(_) => {}
            news => return Some(news),
        }
    }
}

#[tokio::test]
async fn a_caller_reaches_the_agent_and_every_tab_learns_of_it() -> anyhow::Result<()> {
    let (handle, call) = (handle(), CallId::generate());
    let (mut page, mut other_tab) = (attends(&handle, "ada").await?, attends(&handle, "ada").await?);
    handle.set_available("ada".into(), true).await?;
    let mut ticket = enters(&handle, &call).await?;
    assert_eq!((rings(&mut page).await, rings(&mut other_tab).await), (Some(call.clone()), Some(call.clone())));
    handle.answer("ada".into(), call.clone()).await?;
    assert_eq!(decided(&mut ticket).await, Some(TicketNews::Answered("ada".into())));
    assert_eq!(next(&mut other_tab).await, Some(AgentNews::RingStopped { call: call.clone(), end: None }));
    assert_eq!(handle.answer("ada".into(), call).await, Err(AnswerError::NotOffered(NotOffered)));
    drop(ticket);
    assert_eq!(handle.snapshot().await?[0].agents[0].state, "idle");
    Ok(())
}

#[tokio::test]
async fn a_dropped_ticket_stops_the_ring() -> anyhow::Result<()> {
    let (handle, call) = (handle(), CallId::generate());
    let mut page = attends(&handle, "ada").await?;
    handle.set_available("ada".into(), true).await?;
    drop(enters(&handle, &call).await?);
    assert_eq!(rings(&mut page).await, Some(call.clone()));
    assert_eq!(next(&mut page).await, Some(AgentNews::RingStopped { call, end: Some(RingEnd::CallerLeft) }));
    Ok(())
}

#[tokio::test]
async fn a_page_that_reloads_in_time_stays_signed_in() {
    let (name, setup) = setup();
    let mut handle = Desk::new([(name, setup.options)], &Default::default());
    let (commands, mut inbox) = mpsc::channel(8);
    let start = Instant::now();
    let attend = |handle: &mut Desk, at: Instant| {
        let (attendance, news) = Attendance::new("ada".into(), commands.clone());
        let sign_in = SignIn { agent: "ada".into(), queues: ["support".into()].into(), skills: Default::default() };
        handle.take(Command::Attend { sign_in, news, number: attendance.number() }, at);
        attendance
    };
    let mut leaves = |handle: &mut Desk, page: Attendance, at: Instant| {
        drop(page);
        handle.take(inbox.try_recv().expect("a page says that it leaves"), at);
    };
    let signed_in = |handle: &mut Desk, at: Instant| {
        handle.handle_timeout(at);
        handle.queues.agent(&"ada".into()).is_some()
    };
    let page = attend(&mut handle, start);
    leaves(&mut handle, page, start);
    let page = attend(&mut handle, start + RELOAD - SECOND);
    assert!(signed_in(&mut handle, start + 10 * RELOAD));
    leaves(&mut handle, page, start + 10 * RELOAD);
    assert!(signed_in(&mut handle, start + 11 * RELOAD - SECOND));
    assert!(!signed_in(&mut handle, start + 11 * RELOAD));
}

#[tokio::test]
async fn a_full_queue_overflows_and_the_events_say_so() -> anyhow::Result<()> {
    let handle = handle();
    let (first, second) = (CallId::generate(), CallId::generate());
    let _waits = enters(&handle, &first).await?;
    let mut ticket = enters(&handle, &second).await?;
    let entered = TicketNews::Progress(Progress::Entered { queue: "support".into(), position: 2 });
    assert_eq!(ticket.next().await, Some(entered));
    assert_eq!(decided(&mut ticket).await, Some(TicketNews::Overflowed(OverflowReason::Full)));
    // Its ticket takes nobody else's place.
    drop(ticket);
    assert_eq!(handle.snapshot().await?[0].waiting.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_caller_whose_agent_could_not_connect_rings_again() -> anyhow::Result<()> {
    let (handle, call) = (handle(), CallId::generate());
    let mut page = attends(&handle, "ada").await?;
    handle.set_available("ada".into(), true).await?;
    let mut ticket = enters(&handle, &call).await?;
    next(&mut page).await;
    handle.answer("ada".into(), call.clone()).await?;
    assert_eq!(decided(&mut ticket).await, Some(TicketNews::Answered("ada".into())));
    ticket.put_back();
    assert_eq!(next(&mut page).await, Some(AgentNews::RingStopped { call: call.clone(), end: None }));
    assert_eq!(rings(&mut page).await, Some(call.clone()));
    Ok(())
}

#[tokio::test]
async fn a_page_that_opens_while_a_call_rings_learns_of_it() -> anyhow::Result<()> {
    let (handle, call) = (handle(), CallId::generate());
    let mut page = attends(&handle, "ada").await?;
    handle.set_available("ada".into(), true).await?;
    let _ticket = enters(&handle, &call).await?;
    assert_eq!(rings(&mut page).await, Some(call.clone()));
    let mut reloaded = attends(&handle, "ada").await?;
    let Some(AgentNews::State(state)) = reloaded.next().await else { panic!("a page begins with the state") };
    assert_eq!((state.state, state.call), ("ringing", Some(call.clone())));
    assert_eq!(rings(&mut reloaded).await, Some(call.clone()));
    assert_eq!(handle.decline("bob".into(), call.clone()).await, Err(AnswerError::NotOffered(NotOffered)));
    handle.decline("ada".into(), call.clone()).await?;
    let stopped = AgentNews::RingStopped { call, end: Some(RingEnd::Declined) };
    assert_eq!(next(&mut reloaded).await, Some(stopped));
    Ok(())
}
