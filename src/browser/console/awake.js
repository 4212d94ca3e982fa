// Keeps a signed-in page awake: browsers freeze hidden tabs that hold no lock, phones turn their screen off, and both
// would leave a caller ringing at nobody.

export class Awake {
    #letGo = () => {};
    #screen = null;
    #isWanted = false;

    /** From now on, until `stop`. */
    start() {
        navigator.locks?.request("patchcord-signed-in", { mode: "shared" }, () => {
            return new Promise((resolve) => (this.#letGo = resolve));
        });
        document.addEventListener("visibilitychange", this.#keepScreen);
    }

    stop() {
        this.#letGo();
        document.removeEventListener("visibilitychange", this.#keepScreen);
        this.keepScreen(false);
    }

    /** While the agent is available. A browser takes the lock away with each look at another tab. */
    keepScreen(isWanted) {
        if (this.#isWanted === isWanted) return;
        this.#isWanted = isWanted;
        this.#keepScreen();
    }

    #keepScreen = async () => {
        if (this.#isWanted && document.visibilityState === "visible") {
            // Refused on low battery, which is the phone's to decide.
            this.#screen = await navigator.wakeLock?.request("screen").catch(() => null);
        } else if (!this.#isWanted) {
            this.#screen?.release();
            this.#screen = null;
        }
    };
}
