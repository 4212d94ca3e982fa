"use strict";
// Runs in the supervisor's page before its own scripts: a service with five hundred live calls, of which many change
// each second. Everything else goes to the real one.

const CALLS = 500;
const EVENTS_A_SECOND = 50;
// Calls of three minutes: three begin and three end each second.
const BEGINS = 0.06;
const ENDS = 0.06;

const ask = window.fetch.bind(window);
const live = Array.from({ length: CALLS }, (_, number) => number);
let newest = CALLS;

window.fetch = (path, options) => {
    const { pathname, searchParams } = new URL(path, location.href);
    if (pathname === "/v1/calls") return Promise.resolve(page(Number(searchParams.get("after")?.slice(5) ?? CALLS)));
    if (pathname === "/v1/queues") return Promise.resolve(Response.json({ queues: [] }));
    if (pathname === "/v1/events") return Promise.resolve(new Response(events()));
    return ask(path, options);
};

// The newest first, 200 at a time; an id is the call's number.
function page(before) {
    const numbers = Array.from({ length: Math.min(200, before) }, (_, index) => before - 1 - index);
    const calls = numbers.map((number) => ({
        id: `call_${number}`,
        from: { wa_id: String(12025550000 + number), name: number % 3 ? `Caller ${number}` : null },
        route: "reception",
        state: "talking",
        queue: "support",
        agent: { kind: "person", name: `agent-${number % 50}`, attempt: 0 },
        on_hold: number % 20 === 0,
        quality: { level: "good", mean_opinion_score: 4 + Math.random() / 2 },
        duration_ms: number * 1000,
    }));
    return Response.json({ calls, next: before > 200 ? `call_${before - 200}` : null });
}

function events() {
    let timer;
    return new ReadableStream({
        start(controller) {
            const send = () => controller.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(event())}\n\n`));
            timer = setInterval(send, 1000 / EVENTS_A_SECOND);
        },
        cancel: () => clearInterval(timer),
    });
}

function event() {
    const chance = Math.random();
    if (chance < BEGINS) {
        live.push(newest);
        return { type: "call.incoming", call_id: `call_${newest++}`, data: { from: {}, route: "reception" } };
    }
    const some = Math.floor(Math.random() * live.length);
    if (chance < BEGINS + ENDS) return { type: "call.ended", call_id: `call_${live.splice(some, 1)}`, data: {} };
    const data = { level: "fair", mean_opinion_score: 3 + Math.random() };
    return { type: "call.quality", call_id: `call_${live[some]}`, data };
}
