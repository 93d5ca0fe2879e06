// @ts-check
/** Noticing every change of a widget's value. */

/**
 * Call back whenever a widget's value has become another, whoever changes it: a person (who comes through `callback`),
 * a program that sets `value`, a graph that is loaded.
 * @param {any} widget
 * @param {() => void} onChange
 * @returns {() => void} Looks whether the value has changed unnoticed, as in a store that the widget reads.
 */
export function watchValue(widget, onChange) {
  let last = widget.value;
  const check = () => {
    if (widget.value === last) return;
    last = widget.value;
    onChange();
  };
  const { callback } = widget;
  widget.callback = function (/** @type {any[]} */ ...values) {
    const answer = callback?.apply(this, values);
    check();
    return answer;
  };
  const { get, set } = accessors(widget);
  Object.defineProperty(widget, "value", {
    configurable: true,
    enumerable: true,
    get,
    set(value) {
      set(value);
      check();
    },
  });
  return check;
}

/** How the widget reads and writes its value by itself. @param {any} widget */
function accessors(widget) {
  let owner = widget;
  while (owner && !Object.hasOwn(owner, "value")) owner = Object.getPrototypeOf(owner);
  const property = owner && Object.getOwnPropertyDescriptor(owner, "value");
  if (property?.get && property?.set) {
    return {
      get: () => property.get?.call(widget),
      set: (/** @type {any} */ value) => property.set?.call(widget, value),
    };
  }
  let own = widget.value;
  return { get: () => own, set: (/** @type {any} */ value) => (own = value) };
}
