// The control API of Patchcord, as docs/api-and-events.md describes it. The key lives in this object and nowhere else:
// no cookie, no storage, no address has it, so a reload asks for it again.

/** For an answer to come. A call's worker may take ten seconds for an action. */
const ANSWERED_WITHIN_MS = 15_000;

/** Why a request was refused: `code` is for programs, `detail` is the service's sentence. */
export class Problem extends Error {
    constructor({ status, code, detail, scope }) {
        super(detail || code);
        Object.assign(this, { name: "Problem", status, code, detail, scope });
    }

    /** The request may not have reached the service. */
    static ofNetwork(cause) {
        const code = cause?.name === "TimeoutError" ? "no_answer" : "network";
        return new Problem({ status: 0, code, detail: String(cause?.message ?? cause) });
    }

    static async ofResponse(response) {
        const body = await response.json().catch(() => ({}));
        return new Problem({
            code: `http_${response.status}`,
            detail: response.statusText,
            ...body,
            status: response.status,
        });
    }
}

export class Api {
    #key;

    constructor(key) {
        this.#key = key;
    }

    get(path) {
        return this.#json("GET", path);
    }

    put(path, body) {
        return this.#json("PUT", path, body);
    }

    post(path, body = {}) {
        return this.#json("POST", path, body);
    }

    /** One command of docs/agents.md. */
    act(callId, action, fields = {}) {
        return this.post(`/v1/calls/${callId}/actions/${action}`, fields);
    }

    /** All entries of a list that comes in pages, up to `most`. */
    async list(path, name, most = 1000) {
        const entries = [];
        for (let after = null; entries.length < most;) {
            const url = new URL(path, location.origin);
            url.searchParams.set("limit", String(Math.min(200, most - entries.length)));
            if (after) url.searchParams.set("after", after);
            const page = await this.get(url.pathname + url.search);
            entries.push(...page[name]);
            after = page.next;
            if (!after) break;
        }
        return entries;
    }

    /** The response itself: for streams, files and SDP. A `token` takes the place of the key. */
    async request(method, path, { body, headers = {}, token = this.#key, signal } = {}) {
        const options = {
            method,
            body,
            headers: { ...headers, Authorization: `Bearer ${token}` },
            signal: signal ?? AbortSignal.timeout(ANSWERED_WITHIN_MS),
            cache: "no-store",
            credentials: "omit",
        };
        const response = await fetch(path, options).catch((error) => {
            throw Problem.ofNetwork(error);
        });
        if (!response.ok) throw await Problem.ofResponse(response);
        return response;
    }

    async #json(method, path, body) {
        const json =
            body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
        const response = await this.request(method, path, json);
        return response.status === 204 ? null : response.json();
    }
}
