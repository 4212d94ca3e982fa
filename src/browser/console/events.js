// A stream of server-sent events that lasts. It is read with fetch: EventSource can send no Authorization header.
// It opens again by itself, sooner when the network is back, and gives up only when the key is refused.

import { Problem } from "./api.js";

/** The service sends a comment every 15 s; two of them missing is a dead connection. */
const SILENT_FOR_MS = 40_000;
const RETRY_FIRST_MS = 500;
const RETRY_AT_MOST_MS = 10_000;

/**
 * `pathAfter(id)` is where to read on after the event of this id; null is the beginning. `onevent(type, message)` gets
 * each event; `onopen()` comes before the first one of each connection, `onlost()` after the last; `onrefused(problem)`
 * ends the stream.
 */
export class EventStream {
    #api;
    #pathAfter;
    #handlers;
    #end = new AbortController();
    #lastId = null;
    #retryMs = RETRY_FIRST_MS;

    constructor(api, pathAfter, handlers) {
        this.#api = api;
        this.#pathAfter = pathAfter;
        this.#handlers = handlers;
        this.#run();
    }

    close() {
        this.#end.abort();
    }

    async #run() {
        while (!this.#end.signal.aborted) {
            const problem = await this.#readOnce().catch((error) =>
                error instanceof Problem ? error : Problem.ofNetwork(error),
            );
            if (this.#end.signal.aborted) return;
            if ([401, 403].includes(problem?.status)) return this.#handlers.onrefused?.(problem);
            // The last event known is too old: the reader looks at everything anew.
            if (problem?.status === 410) this.#lastId = null;
            this.#handlers.onlost?.();
            await this.#pause();
        }
    }

    async #readOnce() {
        const watchdog = new AbortController();
        const signal = AbortSignal.any([this.#end.signal, watchdog.signal]);
        let timer = setTimeout(() => watchdog.abort(), SILENT_FOR_MS);
        const alive = () => {
            clearTimeout(timer);
            timer = setTimeout(() => watchdog.abort(), SILENT_FOR_MS);
        };
        try {
            const headers = { Accept: "text/event-stream" };
            const response = await this.#api.request("GET", this.#pathAfter(this.#lastId), { headers, signal });
            this.#retryMs = RETRY_FIRST_MS;
            this.#handlers.onopen?.();
            for await (const event of serverSentEvents(response.body, alive)) this.#deliver(event);
        } finally {
            clearTimeout(timer);
        }
    }

    #deliver({ id, type, text }) {
        if (id) this.#lastId = id;
        const message = JSON.parse(text);
        this.#handlers.onevent(message.type ?? type, message);
    }

    /** Doubles from time to time, with chance in it so that a restarted service does not meet everybody at once. */
    #pause() {
        const pause = this.#retryMs * (0.75 + Math.random() / 2);
        this.#retryMs = Math.min(this.#retryMs * 2, RETRY_AT_MOST_MS);
        return new Promise((resolve) => {
            const over = () => {
                clearTimeout(timer);
                removeEventListener("online", over);
                resolve();
            };
            const timer = setTimeout(over, pause);
            addEventListener("online", over);
        });
    }
}

/** Parses the stream (HTML standard, §9.2.6). `onbytes` is called for whatever comes, comments too. */
async function* serverSentEvents(body, onbytes) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let event = { id: null, type: "message", lines: [] };
    for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        onbytes();
        const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
        rest = lines.pop();
        for (const line of lines) {
            if (line === "") {
                if (event.lines.length > 0) yield { id: event.id, type: event.type, text: event.lines.join("\n") };
                event = { id: null, type: "message", lines: [] };
                continue;
            }
            const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
            if (field === "data") event.lines.push(text);
            else if (field === "event") event.type = text;
            else if (field === "id") event.id = text;
        }
    }
}
