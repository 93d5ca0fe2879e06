// @ts-check
/**
 * Numbers keep every decimal that is typed, and their arrows still make comfortable steps. The editor has one number
 * for both, the input's step; nodes/inputs.py gives it the finest difference, and says beside it what an arrow shall
 * add. Decimals that say nothing are not shown.
 */
import { arrowsOf, shortest } from "./arrows.mjs";

/** What the browser registers for this feature. */
export const numbers = {
  name: "KronA.Numbers",
  /** @param {any} node */
  nodeCreated(node) {
    const arrows = arrowsOf(node.constructor?.nodeData?.input);
    for (const widget of node.widgets ?? []) {
      const step = arrows.get(widget.name);
      if (step === undefined || !widget.options) continue;
      widget.options.step2 = step;
      widget.options.step = 10 * step; // what older editors read
      // Nodes on the canvas; Vue's have one number of decimals for what is shown and for what is kept.
      Object.defineProperty(widget, "_displayValue", {
        configurable: true,
        get: () => (widget.computedDisabled ? "" : shortest(widget.value)),
      });
    }
  },
};
