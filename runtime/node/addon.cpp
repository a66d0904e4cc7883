// ern_node.node: the N-API module. The same for every model: it opens a package's library and binds its one table of functions (include/ern.h).

#include "node/engine.hpp"

NAPI_MODULE_INIT() {
  napi_value function = nullptr;
  napi_create_function(env, "createEngine", NAPI_AUTO_LENGTH, ern::node::create_engine, nullptr, &function);
  napi_set_named_property(env, exports, "createEngine", function);
  return exports;
}
