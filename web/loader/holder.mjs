// @ts-check
/** What a loader node holds: kept up to date with its `file` widget. */
import { element } from "../dom.mjs";
import { chooseFile } from "../drop/place.mjs";
import { replaceFile } from "../drop/receive.mjs";
import { chain, inOneStep, widgetOf } from "../graph.mjs";
import { api, ask, toast } from "../host.mjs";
import { factsCard, note } from "./card.mjs";
import { copyText } from "./clipboard.mjs";
import { combobox } from "./combobox.mjs";
import { watchValue } from "./watch.mjs";

/** What a menu has for no file, where a node does without one. */
const NONE = "(none)";

export class Holder {
  /**
   * @param {any} node With a `file` widget.
   * @param {import("./format.mjs").Translate} t
   * @param {() => void} onOther Called when the node holds another file.
   */
  constructor(node, t, onOther) {
    this.node = node;
    this.t = t;
    this.widget = widgetOf(node, "file");
    this.facts = element("div", { class: "krona-held" });
    this.controls = this.#controls();
    this.check = watchValue(this.widget, () => {
      onOther();
      void this.#show();
    });
    let wasWired = this.#isWired();
    chain(node, "onConnectionsChange", () => {
      if (this.#isWired() !== wasWired) void this.#show();
      wasWired = this.#isWired();
    });
    void this.#show();
  }

  #controls() {
    const { node, t, widget } = this;
    const values = () =>
      (typeof widget.options.values === "function" ? widget.options.values() : widget.options.values) ?? [];
    const search = combobox({
      names: () => values().map(String),
      current: () => String(widget.value),
      choose: (name) => void inOneStep(() => chooseFile(node, name)),
      t,
    });
    const send = () => void replaceFile(node);
    const button = element(
      "button",
      { type: "button", class: "krona-button", title: t("uploadTip"), onclick: send },
      t("upload"),
    );
    return element("div", { class: "krona-find" }, search, button);
  }

  /** Ask the server, and show the answer unless another file has been chosen meanwhile. */
  async #show() {
    const { t } = this;
    const name = String(this.widget.value ?? "");
    if (this.#isWired()) return this.facts.replaceChildren(note(t("wired")));
    if (!name || name === NONE) return this.facts.replaceChildren(note(t("none")));
    const waiting = setTimeout(() => this.#isStill(name) && this.facts.replaceChildren(note(t("loading"))), 300);
    const shown = await this.#ask(name);
    clearTimeout(waiting);
    if (this.#isStill(name) && !this.#isWired()) this.facts.replaceChildren(shown);
  }

  /** Whether an adapter comes in by a wire, which takes the file's place. */
  #isWired() {
    return this.node.inputs?.some((/** @type {any} */ input) => input.name === "krona" && input.link != null) ?? false;
  }

  /** @param {string} name */
  #isStill(name) {
    return String(this.widget.value ?? "") === name;
  }

  /** @param {string} name @returns {Promise<HTMLElement>} */
  async #ask(name) {
    const { t } = this;
    const query = `name=${encodeURIComponent(name)}`;
    try {
      const facts = await ask(`/adapter?${query}`);
      // With its time, as a browser would show the picture of a file that has been replaced.
      const picture = facts.has_thumbnail ? api.apiURL(`/krona/adapter/thumbnail?${query}&of=${facts.modified}`) : null;
      return factsCard(facts, { t, picture, copy: (words) => void this.#copy(words) });
    } catch (error) {
      return note(error instanceof Error ? error.message : String(error), true);
    }
  }

  /** @param {string} words */
  async #copy(words) {
    const isCopied = await copyText(words);
    toast(isCopied ? "success" : "warn", this.t(isCopied ? "copied" : "notCopied", { words }));
  }
}
