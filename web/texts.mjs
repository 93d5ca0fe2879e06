// @ts-check
/**
 * What the pack says in the browser, in the language of ComfyUI's settings. Node names and tooltips are in `locales/`.
 */

/**
 * @typedef {Record<string, string>} Table Key to text; `{name}` stands for a value.
 * @param {{en: Table, zh: Table, ja: Table}} tables English has every key; a language without one shows English.
 * @param {() => string} locale
 * @returns {(key: string, values?: Record<string, string | number>) => string}
 */
export function translator(tables, locale) {
  return (key, values = {}) => {
    const language = /** @type {"en" | "zh" | "ja"} */ (locale().split("-")[0]);
    const text = tables[language]?.[key] ?? tables.en[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
  };
}
