// @ts-check
/** Making elements. Text only ever goes in as text: names of files and of layers come from strangers. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] `class`, `aria-…`, `data-…` and `role` become attributes, `on…` listeners,
 *   `style` an object of CSS properties; everything else is set as a property.
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any} The element; `any`, because callers know which it is.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  assign(made, properties);
  made.append(
    .../** @type {(Node | string)[]} */ (
      children.filter((child) => child !== null && child !== undefined && child !== false)
    ),
  );
  return made;
}

/**
 * The same for SVG.
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {HTMLElement} made @param {Record<string, any>} properties */
function assign(made, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class" || name === "role" || name === "for" || name.startsWith("aria-") || name.startsWith("data-")) {
      made.setAttribute(name, String(value));
    } else if (name.startsWith("on")) {
      made.addEventListener(name.slice(2), value);
    } else if (name === "style") {
      for (const [property, css] of Object.entries(value)) made.style.setProperty(property, String(css));
    } else {
      /** @type {any} */ (made)[name] = value;
    }
  }
}
