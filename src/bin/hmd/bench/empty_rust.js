// The same in Rust: tests/empty-consumer, built as HMD is.
import Empty from "./index.js";
import { fed } from "./feed.js";
import { probe } from "./probe.js";

export default probe(fed(Empty));
