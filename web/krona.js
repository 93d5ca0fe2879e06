// @ts-check
/** The pack in the browser. ComfyUI imports every .js file of this folder; this is the only one. */
import { drop } from "./drop/feature.mjs";
import { heat } from "./heat/feature.mjs";
import { app, WEB } from "./host.mjs";
import { loader } from "./loader/feature.mjs";
import { mistakes } from "./mistakes/feature.mjs";
import { numbers } from "./numbers/feature.mjs";
import { training } from "./training/feature.mjs";

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("krona.css", WEB).href;
document.head.append(style);

for (const feature of [drop, loader, mistakes, numbers, training, heat]) app.registerExtension(feature);
