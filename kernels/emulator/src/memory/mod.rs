//! Global and shared memory, each with a shadow: what was allocated, what was written, who may read it by now.
