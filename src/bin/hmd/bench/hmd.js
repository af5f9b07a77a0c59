import Hmd from "./index.js";
import { probe } from "./probe.js";

export default probe(Hmd);
