// @ts-check
/** What an adapter is, to look at. Everything in it comes from files of strangers and goes in as text. */
import { element } from "../dom.mjs";
import { kind, numbers, products, unread } from "./format.mjs";

/**
 * @typedef {import("./format.mjs").Facts} Facts
 * @typedef {import("./format.mjs").Translate} Translate
 */

/**
 * @param {Facts} facts
 * @param {{t: Translate, picture: string | null, copy: (words: string) => void}} options `picture`: an address, where
 *   it has one.
 * @returns {HTMLElement}
 */
export function factsCard(facts, { t, picture, copy }) {
  const what = kind(facts, t);
  const words = facts.trigger.map((trigger) => {
    const label = t("copy", { words: trigger });
    return element(
      "button",
      { type: "button", class: "krona-trigger", title: label, "aria-label": label, onclick: () => copy(trigger) },
      trigger,
    );
  });
  return element(
    "div",
    { class: "krona-facts" },
    picture &&
      element("img", {
        class: "krona-picture",
        src: picture,
        alt: t("picture", { title: facts.title }),
        draggable: false,
      }),
    element(
      "div",
      { class: "krona-words" },
      element("div", { class: "krona-title", title: facts.description || facts.title }, facts.title),
      what && element("div", { class: "krona-kind" }, what),
      element("div", { class: "krona-numbers", title: products(facts.factors, t) }, numbers(facts, t).join(" · ")),
      facts.left_out?.length > 0 && leftOut(facts.left_out, t),
      words.length > 0 &&
        element("div", { class: "krona-triggers", role: "group", "aria-label": t("trigger") }, ...words),
    ),
  );
}

/** What the file holds and the pack cannot use. @param {Facts["left_out"]} parts @param {Translate} t */
function leftOut(parts, t) {
  const { text, details } = unread(parts, t);
  return element("div", { class: "krona-left-out", title: details, role: "note" }, text);
}

/** A line that says why there is nothing to show. @param {string} text @param {boolean} [isBad] */
export function note(text, isBad = false) {
  return element(
    "div",
    { class: isBad ? "krona-note krona-note-bad" : "krona-note", role: isBad ? "alert" : "status" },
    text,
  );
}

/**
 * How much of the adapter a model has.
 * @param {{matched: number, layers: number, report: string}} coverage
 * @param {Translate} t
 */
export function coverageLine(coverage, t) {
  const { matched, layers } = coverage;
  const state = matched === layers ? "all" : matched ? "some" : "none";
  return element(
    "div",
    { class: `krona-coverage krona-coverage-${state}`, title: coverage.report, role: "status" },
    t("coverage", { matched, layers }),
  );
}
