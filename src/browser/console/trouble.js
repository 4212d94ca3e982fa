// What went wrong, in the words of the reader's language, with what to do about it.

import { hasWords, t } from "./language.js";

/** One or two sentences. A code without words of ours is shown with the service's own sentence. */
export function inWords(error) {
    const code = error?.code ?? "unknown";
    if (hasWords(`trouble_${code}`)) return t(`trouble_${code}`, { detail: error.detail, scope: error.scope ?? "" });
    return t("trouble_other", { detail: error?.detail ?? error?.message ?? code });
}
