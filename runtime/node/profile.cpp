// Times of kernels: ern_profile waits, so it runs on a libuv thread.

#include <string>
#include <vector>

#include "node/engine.hpp"

namespace ern::node {
namespace {

struct Time {
  std::string kernel;  // "": the whole step
  int32_t launches;
  double us;
};

struct Profile {
  std::shared_ptr<Session> session;
  ern_profile_request request = {};
  std::vector<Time> times;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  ern_status status = ERN_OK;
  std::string message;
};

void on_kernel(void* user, const ern_kernel_time* time) {
  static_cast<Profile*>(user)->times.push_back({time->kernel ? time->kernel : "", time->launches, time->us});
}

void execute(napi_env, void* data) {
  auto* profile = static_cast<Profile*>(data);
  const ern_api* const api = profile->session->api;
  if (!profile->session->enter()) {
    profile->status = ERN_CANCELLED;
    profile->message = "the engine was disposed of";
    return;
  }
  profile->status = api->profile(profile->session->engine, &profile->request);
  if (profile->status != ERN_OK) profile->message = api->last_message();
  profile->session->leave();
}

void complete(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Profile> profile(static_cast<Profile*>(data));
  if (profile->status == ERN_OK) {
    napi_value times = nullptr;
    napi_create_array_with_length(env, profile->times.size(), &times);
    for (size_t i = 0; i < profile->times.size(); i++) {
      const Time& time = profile->times[i];
      napi_value entry = nullptr;
      napi_create_object(env, &entry);
      set(env, entry, "kernel", time.kernel);
      set(env, entry, "launches", static_cast<double>(time.launches));
      set(env, entry, "us", time.us);
      napi_set_element(env, times, static_cast<uint32_t>(i), entry);
    }
    napi_resolve_deferred(env, profile->deferred, times);
  } else {
    napi_reject_deferred(env, profile->deferred, make_error(env, profile->status, profile->message));
  }
  napi_delete_async_work(env, profile->work);
}

}  // namespace

napi_value profile(napi_env env, const std::shared_ptr<Session>& session, size_t argc, napi_value* argv) {
  if (argc < 3) return throw_status(env, ERN_INVALID_ARGUMENT, "profile takes batch, rows and context");
  auto* profile = new Profile;
  profile->session = session;
  profile->request.size = sizeof profile->request;
  profile->request.batch = static_cast<int32_t>(number(env, argv[0]));
  profile->request.rows = static_cast<int32_t>(number(env, argv[1]));
  profile->request.context = static_cast<int64_t>(number(env, argv[2]));
  profile->request.on_kernel = on_kernel;
  profile->request.user = profile;
  napi_value promise = nullptr;
  napi_create_promise(env, &profile->deferred, &promise);
  napi_create_async_work(env, nullptr, make_string(env, "ern_profile", NAPI_AUTO_LENGTH), execute, complete, profile, &profile->work);
  napi_queue_async_work(env, profile->work);
  return promise;
}

}  // namespace ern::node
