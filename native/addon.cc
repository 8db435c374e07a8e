// SPDX-License-Identifier: Apache-2.0
// The thin N-API face of the other files here: argument types, error conversion and the hop of events onto Node's loop; no kernel knowledge.
// Exports what src/kernel/native.ts declares.
#include "events.h"
#include "interfaces.h"
#include "inventory.h"
#include "layout.h"
#include "object.h"
#include "privileges.h"
#include "tc.h"

#include <cerrno>

#include <fcntl.h>
#include <napi.h>

namespace
{

using postern::Bytes;
using postern::View;

// The class that every failure is thrown as: src/kernel/native.ts hands it over when it loads the addon.
struct Instance {
	Napi::FunctionReference error_class;
	Napi::FunctionReference object_class;
};

Instance &instance(Napi::Env env)
{
	return *env.GetInstanceData<Instance>();
}

Napi::Object error_of(Napi::Env env, const postern::Failure &failure)
{
	return instance(env).error_class.New({Napi::String::New(env, failure.what()), Napi::String::New(env, failure.code),
					      Napi::String::New(env, failure.operation)});
}

template <typename Function> auto guarded(Napi::Env env, Function function) -> decltype(function())
{
	try {
		return function();
	} catch (const postern::Failure &failure) {
		throw Napi::Error(env, error_of(env, failure));
	} catch (const std::bad_alloc &) {
		throw Napi::Error::New(env, "out of memory");
	}
}

// Work that waits for the kernel, off Node's thread; `settle` makes of its result what the promise is fulfilled with, on it.
template <typename Result> class Task : public Napi::AsyncWorker
{
      public:
	using Work = std::function<Result()>;
	using Settle = std::function<Napi::Value(Napi::Env, Result)>;

	static Napi::Value start(Napi::Env env, Work work, Settle settle)
	{
		auto *task = new Task(env, std::move(work), std::move(settle));
		const Napi::Promise promise = task->promise_.Promise();
		task->Queue();
		return promise;
	}

      private:
	Task(Napi::Env env, Work work, Settle settle)
	    : Napi::AsyncWorker(env), promise_(Napi::Promise::Deferred::New(env)), work_(std::move(work)),
	      settle_(std::move(settle))
	{
	}

	void Execute() override
	{
		try {
			result_.emplace(work_());
		} catch (const postern::Failure &failure) {
			failure_ = std::make_unique<postern::Failure>(failure);
		}
	}

	void OnOK() override
	{
		try {
			if (failure_)
				guarded(Env(), [this]() -> void { throw *failure_; });
			promise_.Resolve(settle_(Env(), std::move(*result_)));
		} catch (const Napi::Error &error) {
			promise_.Reject(error.Value());
		}
	}

	void OnError(const Napi::Error &error) override
	{
		promise_.Reject(error.Value());
	}

	Napi::Promise::Deferred promise_;
	Work work_;
	Settle settle_;
	std::optional<Result> result_;
	std::unique_ptr<postern::Failure> failure_;
};

std::string text(const Napi::CallbackInfo &info, std::size_t index)
{
	if (!info[index].IsString())
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a string");
	return info[index].As<Napi::String>().Utf8Value();
}

View bytes(const Napi::CallbackInfo &info, std::size_t index)
{
	if (!info[index].IsBuffer())
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a Buffer");
	const auto buffer = info[index].As<Napi::Buffer<std::uint8_t>>();
	return {buffer.Data(), buffer.Length()};
}

std::uint32_t number(const Napi::CallbackInfo &info, std::size_t index, double maximum = 4294967295.0)
{
	const double value = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
	if (!(value >= 0 && value <= maximum && value == static_cast<double>(static_cast<std::uint32_t>(value))))
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) +
							       " must be a whole number from 0 to " +
							       std::to_string(static_cast<std::uint64_t>(maximum)));
	return static_cast<std::uint32_t>(value);
}

std::map<std::string, std::uint32_t> numbers(const Napi::CallbackInfo &info, std::size_t index)
{
	const Napi::Env env = info.Env();
	std::map<std::string, std::uint32_t> result;
	if (info[index].IsUndefined())
		return result;
	if (!info[index].IsObject())
		throw Napi::TypeError::New(env, "argument " + std::to_string(index) + " must be an object of numbers");
	const Napi::Object given = info[index].As<Napi::Object>();
	const Napi::Array names = given.GetPropertyNames();
	for (std::uint32_t at = 0; at < names.Length(); at++) {
		const Napi::Value name = names[at];
		const Napi::Value value = given.Get(name);
		const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
		if (!(number >= 0 && number <= 4294967295.0 && number == static_cast<double>(static_cast<std::uint32_t>(number))))
			throw Napi::TypeError::New(env,
						   "argument " + std::to_string(index) + " must hold whole numbers of 32 bits");
		result[name.ToString()] = static_cast<std::uint32_t>(number);
	}
	return result;
}

postern::Side side(const Napi::CallbackInfo &info, std::size_t index)
{
	const std::string name = text(info, index);
	if (name != "ingress" && name != "egress")
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be ingress or egress");
	return name == "ingress" ? postern::Side::ingress : postern::Side::egress;
}

// null: this process's own namespace.
std::optional<std::int32_t> nsid(const Napi::CallbackInfo &info, std::size_t index)
{
	if (info[index].IsNull())
		return std::nullopt;
	return static_cast<std::int32_t>(number(info, index, 2147483647.0));
}

Napi::Buffer<std::uint8_t> buffer(Napi::Env env, const Bytes &content)
{
	return Napi::Buffer<std::uint8_t>::Copy(env, content.data(), content.size());
}

std::map<std::string, std::string> texts(const Napi::CallbackInfo &info, std::size_t index)
{
	const Napi::Env env = info.Env();
	std::map<std::string, std::string> result;
	if (info[index].IsUndefined())
		return result;
	if (!info[index].IsObject())
		throw Napi::TypeError::New(env, "argument " + std::to_string(index) + " must be an object of strings");
	const Napi::Object given = info[index].As<Napi::Object>();
	const Napi::Array names = given.GetPropertyNames();
	for (std::uint32_t at = 0; at < names.Length(); at++) {
		const Napi::Value name = names[at];
		const Napi::Value value = given.Get(name);
		if (!value.IsString())
			throw Napi::TypeError::New(env, "argument " + std::to_string(index) + " must hold strings");
		result[name.ToString()] = value.As<Napi::String>().Utf8Value();
	}
	return result;
}

Napi::Object object_of(Napi::Env env, const std::map<std::string, std::string> &texts)
{
	const Napi::Object result = Napi::Object::New(env);
	for (const auto &[name, value] : texts)
		result.Set(name, value);
	return result;
}

Napi::Object object_of(Napi::Env env, const postern::LinkInfo &link)
{
	const Napi::Object result = Napi::Object::New(env);
	result.Set("id", link.id);
	result.Set("type", link.type);
	result.Set("program", link.program);
	result.Set("cgroup", Napi::BigInt::New(env, link.cgroup));
	result.Set("ifindex", link.ifindex);
	result.Set("attachType", link.attach_type);
	return result;
}

Napi::Object object_of(Napi::Env env, const postern::ProgramInfo &program)
{
	const Napi::Object maps = Napi::Object::New(env);
	for (const auto &[name, id] : program.maps)
		maps.Set(name, id);
	const Napi::Array map_ids = Napi::Array::New(env, program.map_ids.size());
	for (std::uint32_t index = 0; index < program.map_ids.size(); index++)
		map_ids.Set(index, program.map_ids[index]);
	const Napi::Object result = Napi::Object::New(env);
	result.Set("id", program.id);
	result.Set("type", program.type);
	result.Set("name", program.name);
	result.Set("tag", program.tag);
	result.Set("loadedNs", Napi::BigInt::New(env, program.loaded_ns));
	result.Set("mapIds", map_ids);
	result.Set("maps", program.is_whole ? maps : env.Null());
	result.Set("constants", program.is_whole ? buffer(env, program.constants) : env.Null());
	return result;
}

Napi::Function callback(const Napi::CallbackInfo &info, std::size_t index)
{
	if (!info[index].IsFunction())
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a function");
	return info[index].As<Napi::Function>();
}

// A reader of one ring buffer and its way onto Node's loop. Everything but announce() runs on Node's thread.
class Subscription : public std::enable_shared_from_this<Subscription>
{
      public:
	static std::shared_ptr<Subscription> start(Napi::Env env, int map_fd, Napi::Function on_event)
	{
		auto subscription = std::make_shared<Subscription>();
		subscription->on_event_ = Napi::Persistent(on_event);
		// The function itself may outlive this object on Node's queue, so its finalizer keeps a share.
		auto *share = new std::shared_ptr<Subscription>(subscription);
		subscription->loop_ = Napi::ThreadSafeFunction::New(env, on_event, "postern events", 0, 1, [share](Napi::Env) {
			(*share)->loop_open_ = false;
			if ((*share)->reader_)
				(*share)->reader_->stop();
			delete share;
		});
		subscription->loop_open_ = true;
		try {
			subscription->reader_ =
				std::make_unique<postern::EventReader>(map_fd, [raw = subscription.get()] { raw->announce(); });
		} catch (...) {
			subscription->reader_.reset();
			subscription->loop_.Abort();
			throw;
		}
		return subscription;
	}

	// What was read before the end is delivered before this returns.
	void stop(Napi::Env env)
	{
		if (stopped_)
			return;
		stopped_ = true;
		reader_->stop();
		try {
			deliver(env);
		} catch (...) {
			end();
			throw;
		}
		end();
	}

	void abandon()
	{
		if (stopped_)
			return;
		stopped_ = true;
		reader_->stop();
		end();
	}

      private:
	void announce()
	{
		loop_.NonBlockingCall([share = weak_from_this()](Napi::Env env, Napi::Function) {
			const auto subscription = share.lock();
			if (!subscription || subscription->stopped_)
				return;
			try {
				subscription->deliver(env);
			} catch (const Napi::Error &error) {
				// Nobody is above us: without this Node would only warn.
				napi_fatal_exception(env, error.Value());
			}
		});
	}

	void deliver(Napi::Env env)
	{
		try {
			while (!on_event_.IsEmpty()) { // a callback may close the object
				const auto record = reader_->take();
				if (!record)
					return;
				const Napi::HandleScope scope(env);
				on_event_.Call({buffer(env, *record)});
			}
		} catch (...) {
			if (reader_)
				reader_->resume();
			throw;
		}
	}

	void end()
	{
		if (loop_open_)
			loop_.Release();
		loop_open_ = false;
		on_event_.Reset();
		// Now, not when Node gets round to finalizing the function: it holds descriptors.
		reader_.reset();
	}

	std::unique_ptr<postern::EventReader> reader_;
	Napi::ThreadSafeFunction loop_;
	Napi::FunctionReference on_event_;
	bool loop_open_ = false;
	bool stopped_ = false;
};

// Calls back on Node's loop when interfaces changed. Keeps no process alive. Everything but announce() runs on Node's thread.
class InterfaceSubscription : public std::enable_shared_from_this<InterfaceSubscription>
{
      public:
	static std::shared_ptr<InterfaceSubscription> start(Napi::Env env, Napi::Function on_change)
	{
		auto subscription = std::make_shared<InterfaceSubscription>();
		subscription->on_change_ = Napi::Persistent(on_change);
		auto *share = new std::shared_ptr<InterfaceSubscription>(subscription);
		subscription->loop_ =
			Napi::ThreadSafeFunction::New(env, on_change, "postern interfaces", 0, 1, [share](Napi::Env) {
				(*share)->loop_open_ = false;
				if ((*share)->watch_)
					(*share)->watch_->stop();
				delete share;
			});
		subscription->loop_open_ = true;
		subscription->loop_.Unref(env);
		try {
			subscription->watch_ =
				std::make_unique<postern::InterfaceWatch>([raw = subscription.get()] { raw->announce(); });
		} catch (...) {
			subscription->loop_.Abort();
			throw;
		}
		return subscription;
	}

	void stop()
	{
		if (!watch_)
			return;
		watch_->stop();
		if (loop_open_)
			loop_.Release();
		loop_open_ = false;
		on_change_.Reset();
		watch_.reset();
	}

      private:
	void announce()
	{
		loop_.NonBlockingCall([share = weak_from_this()](Napi::Env env, Napi::Function) {
			const auto subscription = share.lock();
			if (!subscription || !subscription->watch_)
				return;
			const postern::InterfaceChanges changes = subscription->watch_->take();
			const Napi::Array gone = Napi::Array::New(env, changes.gone.size());
			for (std::uint32_t index = 0; index < changes.gone.size(); index++)
				gone.Set(index, changes.gone[index]);
			try {
				subscription->on_change_.Call({gone, Napi::Boolean::New(env, changes.lost)});
			} catch (const Napi::Error &error) {
				napi_fatal_exception(env, error.Value());
			}
		});
	}

	std::unique_ptr<postern::InterfaceWatch> watch_;
	Napi::ThreadSafeFunction loop_;
	Napi::FunctionReference on_change_;
	bool loop_open_ = false;
};

// Waits on a thread of Node's pool.
class ProgramWait : public Napi::AsyncWorker
{
      public:
	ProgramWait(Napi::Env env, std::function<void()> wait)
	    : Napi::AsyncWorker(env), wait_(std::move(wait)), done_(Napi::Promise::Deferred::New(env))
	{
	}

	Napi::Promise promise() const
	{
		return done_.Promise();
	}

      protected:
	void Execute() override
	{
		try {
			wait_();
		} catch (const postern::Failure &failure) {
			failure_.emplace(failure);
		}
	}

	void OnError(const Napi::Error &error) override
	{
		done_.Reject(error.Value());
	}

	void OnOK() override
	{
		if (failure_)
			done_.Reject(error_of(Env(), *failure_));
		else
			done_.Resolve(Env().Undefined());
	}

      private:
	const std::function<void()> wait_;
	const Napi::Promise::Deferred done_;
	std::optional<postern::Failure> failure_;
};

class NativeObject : public Napi::ObjectWrap<NativeObject>
{
      public:
	static Napi::Function define(Napi::Env env)
	{
		return DefineClass(env, "NativeObject",
				   {InstanceMethod<&NativeObject::maps>("maps"),
				    InstanceMethod<&NativeObject::programs>("programs"),
				    InstanceMethod<&NativeObject::update>("update"),
				    InstanceMethod<&NativeObject::lookup>("lookup"),
				    InstanceMethod<&NativeObject::remove>("remove"),
				    InstanceMethod<&NativeObject::dump>("dump"),
				    InstanceMethod<&NativeObject::find_all>("findAll"),
				    InstanceMethod<&NativeObject::read_page>("readPage"),
				    InstanceMethod<&NativeObject::wait_for_programs>("waitForPrograms"),
				    InstanceMethod<&NativeObject::programs_ended>("programsEnded"),
				    InstanceMethod<&NativeObject::attach_cgroup>("attachCgroup"),
				    InstanceMethod<&NativeObject::attach_tcx>("attachTcx"),
				    InstanceMethod<&NativeObject::tcx_place>("tcxPlace"),
				    InstanceMethod<&NativeObject::attach_clsact>("attachClsact"),
				    InstanceMethod<&NativeObject::release_link>("releaseLink"),
				    InstanceMethod<&NativeObject::detach>("detach"),
				    InstanceMethod<&NativeObject::test_run>("testRun"),
				    InstanceMethod<&NativeObject::map_ids>("mapIds"),
				    InstanceMethod<&NativeObject::layouts>("layouts"),
				    InstanceMethod<&NativeObject::pin_map>("pinMap"),
				    InstanceMethod<&NativeObject::pin_program>("pinProgram"),
				    InstanceMethod<&NativeObject::program>("program"),
				    InstanceMethod<&NativeObject::open_link>("openLink"),
				    InstanceMethod<&NativeObject::pin_link>("pinLink"),
				    InstanceMethod<&NativeObject::update_link>("updateLink"),
				    InstanceMethod<&NativeObject::link>("link"),
				    InstanceMethod<&NativeObject::read_events>("readEvents"),
				    InstanceMethod<&NativeObject::stop_events>("stopEvents"),
				    InstanceMethod<&NativeObject::drain_events>("drainEvents"),
				    InstanceMethod<&NativeObject::close>("close")});
	}

	explicit NativeObject(const Napi::CallbackInfo &info) : Napi::ObjectWrap<NativeObject>(info)
	{
		const Napi::Env env = info.Env();
		if (!info[0].IsString()) {
			if (info[1].IsUndefined()) {
				const auto paths = texts(info, 0);
				guarded(env, [&] { object_ = std::make_unique<postern::Object>(paths); });
			} else {
				const auto ids = numbers(info, 1);
				guarded(env, [&] { object_ = std::make_unique<postern::Object>(ids); });
			}
			return;
		}
		const std::string path = text(info, 0);
		const auto sizes = numbers(info, 1);
		const auto constants = numbers(info, 2);
		const auto pinned = texts(info, 3);
		guarded(env, [&] { object_ = std::make_unique<postern::Object>(path, sizes, constants, pinned); });
	}

	~NativeObject() override
	{
		for (const auto &[name, subscription] : subscriptions_)
			subscription->abandon();
	}

      private:
	Napi::Value maps(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const Napi::Object result = Napi::Object::New(env);
		for (const auto &[name, shape] : object_->maps().shapes()) {
			const Napi::Object entry = Napi::Object::New(env);
			entry.Set("type", shape.type);
			entry.Set("keySize", shape.key_size);
			entry.Set("valueSize", shape.value_size);
			entry.Set("maxEntries", shape.max_entries);
			entry.Set("flags", shape.flags);
			result.Set(name, entry);
		}
		return result;
	}

	Napi::Value programs(const Napi::CallbackInfo &info)
	{
		const std::vector<std::string> names = object_->programs();
		const Napi::Array result = Napi::Array::New(info.Env(), names.size());
		for (std::uint32_t index = 0; index < names.size(); index++)
			result.Set(index, names[index]);
		return result;
	}

	void update(const Napi::CallbackInfo &info)
	{
		const std::string map = text(info, 0);
		const View keys = bytes(info, 1);
		const View values = bytes(info, 2);
		const std::uint32_t count = number(info, 3);
		const std::uint32_t flags = number(info, 4);
		guarded(info.Env(), [&] { object_->maps().update(map, keys, values, count, flags); });
	}

	Napi::Value lookup(const Napi::CallbackInfo &info)
	{
		const std::string map = text(info, 0);
		const View key = bytes(info, 1);
		const auto value = guarded(info.Env(), [&] { return object_->maps().lookup(map, key); });
		return value ? buffer(info.Env(), *value) : info.Env().Null();
	}

	Napi::Value remove(const Napi::CallbackInfo &info)
	{
		const std::string map = text(info, 0);
		const View keys = bytes(info, 1);
		const std::uint32_t count = number(info, 2);
		const std::size_t removed = guarded(info.Env(), [&] { return object_->maps().remove(map, keys, count); });
		return Napi::Number::New(info.Env(), static_cast<double>(removed));
	}

	Napi::Value dump(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const std::string map = text(info, 0);
		const postern::Dump dump = guarded(env, [&] { return object_->maps().dump(map); });
		const Napi::Object result = Napi::Object::New(env);
		result.Set("keys", buffer(env, dump.keys));
		result.Set("values", buffer(env, dump.values));
		result.Set("count", static_cast<double>(dump.count));
		return result;
	}

	Napi::Value find_all(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const std::string map = text(info, 0);
		const View keys = bytes(info, 1);
		const std::uint32_t count = number(info, 2);
		const postern::Found found = guarded(env, [&] { return object_->maps().find_all(map, keys, count); });
		const Napi::Object result = Napi::Object::New(env);
		result.Set("values", buffer(env, found.values));
		result.Set("areThere", buffer(env, found.are_there));
		return result;
	}

	Napi::Value read_page(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const std::string map = text(info, 0);
		const View place = info[1].IsNull() ? View{nullptr, 0} : bytes(info, 1);
		const std::uint32_t room = number(info, 2);
		const postern::Page page = guarded(env, [&] { return object_->maps().read_page(map, place, room); });
		const Napi::Object result = Napi::Object::New(env);
		result.Set("keys", buffer(env, page.elements.keys));
		result.Set("values", buffer(env, page.elements.values));
		result.Set("count", static_cast<double>(page.elements.count));
		result.Set("next", page.next.empty() ? env.Null() : buffer(env, page.next));
		return result;
	}

	void wait_for_programs(const Napi::CallbackInfo &info)
	{
		guarded(info.Env(), [&] { object_->wait_for_programs(); });
	}

	Napi::Value programs_ended(const Napi::CallbackInfo &info)
	{
		auto wait = guarded(info.Env(), [&] { return object_->program_wait(); });
		auto *worker = new ProgramWait(info.Env(), std::move(wait)); // deletes itself when it is done
		worker->Queue();
		return worker->promise();
	}

	Napi::Value attach_cgroup(const Napi::CallbackInfo &info)
	{
		const std::string program = text(info, 0);
		const std::string path = text(info, 1);
		return Napi::Number::New(info.Env(), guarded(info.Env(), [&] { return object_->attach_cgroup(program, path); }));
	}

	// A program may outlive its object for as long as it is being attached.
	std::shared_ptr<postern::Descriptor> program_descriptor(const Napi::CallbackInfo &info, const std::string &program)
	{
		return guarded(info.Env(), [&] {
			const int fd = object_->program_fd(program, "attach");
			auto copy = std::make_shared<postern::Descriptor>(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
			if (copy->get() < 0)
				throw postern::Failure(errno, "attach " + program);
			return copy;
		});
	}

	Napi::Value attach_tcx(const Napi::CallbackInfo &info)
	{
		const auto program = program_descriptor(info, text(info, 0));
		const std::uint32_t ifindex = number(info, 1);
		const postern::Side at = side(info, 2);
		using Link = std::shared_ptr<postern::Descriptor>;
		return Task<Link>::start(
			info.Env(),
			[=] { return std::make_shared<postern::Descriptor>(postern::attach_tcx(program->get(), ifindex, at)); },
			[self = std::make_shared<Napi::ObjectReference>(Napi::Persistent(Value()))](Napi::Env env, Link link) {
				auto *object = Unwrap(self->Value())->object_.get();
				return Napi::Number::New(env, guarded(env, [&] {
								 if (object->programs().empty())
									 throw postern::Failure(EBADF, "attach",
												"the object is closed");
								 return object->links().adopt(std::move(*link));
							 }));
			});
	}

	Napi::Value release_link(const Napi::CallbackInfo &info)
	{
		const std::uint32_t number_ = number(info, 0);
		const auto link = std::make_shared<postern::Descriptor>(
			guarded(info.Env(), [&] { return object_->links().release(number_); }));
		return Task<bool>::start(
			info.Env(),
			[link] {
				link->reset();
				return true;
			},
			[](Napi::Env env, bool) { return env.Undefined(); });
	}

	Napi::Value tcx_place(const Napi::CallbackInfo &info)
	{
		const std::uint32_t link = number(info, 0);
		const postern::TcxPlace place =
			guarded(info.Env(), [&] { return postern::tcx_place(object_->links().fd(link)); });
		const Napi::Object result = Napi::Object::New(info.Env());
		result.Set("ifindex", place.ifindex);
		result.Set("program", place.program);
		return result;
	}

	Napi::Value attach_clsact(const Napi::CallbackInfo &info)
	{
		const auto program = program_descriptor(info, text(info, 0));
		const std::uint32_t ifindex = number(info, 1);
		const postern::Side at = side(info, 2);
		return Task<bool>::start(
			info.Env(), [=] { return postern::attach_clsact(program->get(), ifindex, at); },
			[](Napi::Env env, bool made) { return Napi::Boolean::New(env, made); });
	}

	void detach(const Napi::CallbackInfo &info)
	{
		const std::uint32_t link = number(info, 0);
		guarded(info.Env(), [&] { object_->links().detach(link); });
	}

	Napi::Value map_ids(const Napi::CallbackInfo &info)
	{
		const Napi::Object result = Napi::Object::New(info.Env());
		for (const auto &[name, id] : guarded(info.Env(), [&] { return object_->maps().ids(); }))
			result.Set(name, id);
		return result;
	}

	Napi::Value layouts(const Napi::CallbackInfo &info)
	{
		return object_of(info.Env(), guarded(info.Env(), [&] { return object_->maps().layouts(); }));
	}

	void pin_program(const Napi::CallbackInfo &info)
	{
		const std::string program = text(info, 0);
		const std::string path = text(info, 1);
		guarded(info.Env(), [&] { object_->pin_program(program, path); });
	}

	void pin_map(const Napi::CallbackInfo &info)
	{
		const std::string map = text(info, 0);
		const std::string path = text(info, 1);
		guarded(info.Env(), [&] { object_->maps().pin(map, path); });
	}

	Napi::Value program(const Napi::CallbackInfo &info)
	{
		const std::string program = text(info, 0);
		return object_of(info.Env(), guarded(info.Env(), [&] { return object_->info(program); }));
	}

	Napi::Value open_link(const Napi::CallbackInfo &info)
	{
		const std::string path = text(info, 0);
		return Napi::Number::New(info.Env(), guarded(info.Env(), [&] { return object_->links().open(path); }));
	}

	void pin_link(const Napi::CallbackInfo &info)
	{
		const std::uint32_t link = number(info, 0);
		const std::string path = text(info, 1);
		guarded(info.Env(), [&] { object_->links().pin(link, path); });
	}

	void update_link(const Napi::CallbackInfo &info)
	{
		const std::uint32_t link = number(info, 0);
		const std::string program = text(info, 1);
		guarded(info.Env(),
			[&] { object_->links().update(link, object_->program_fd(program, "update the link of"), program); });
	}

	Napi::Value link(const Napi::CallbackInfo &info)
	{
		const std::uint32_t link = number(info, 0);
		return object_of(info.Env(), guarded(info.Env(), [&] { return object_->links().info(link); }));
	}

	Napi::Value test_run(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const std::string program = text(info, 0);
		const View packet = bytes(info, 1);
		const std::uint32_t repeat = number(info, 2, 2147483647.0);
		const postern::TestRun run = guarded(env, [&] { return object_->test_run(program, packet, repeat); });
		const Napi::Object result = Napi::Object::New(env);
		result.Set("retval", run.retval);
		result.Set("durationNs", run.duration_ns);
		return result;
	}

	void read_events(const Napi::CallbackInfo &info)
	{
		const std::string map = text(info, 0);
		const Napi::Function on_event = callback(info, 1);
		guarded(info.Env(), [&] {
			refuse_second_reader(map);
			const int fd = object_->maps().ring_buffer_fd(map);
			subscriptions_[map] = Subscription::start(info.Env(), fd, on_event);
		});
	}

	void stop_events(const Napi::CallbackInfo &info)
	{
		const auto found = subscriptions_.find(text(info, 0));
		if (found == subscriptions_.end())
			return;
		const auto subscription = found->second;
		subscriptions_.erase(found);
		subscription->stop(info.Env());
	}

	Napi::Value drain_events(const Napi::CallbackInfo &info)
	{
		const Napi::Env env = info.Env();
		const std::string map = text(info, 0);
		const Napi::Function on_event = callback(info, 1);
		const std::deque<Bytes> records = guarded(env, [&] {
			refuse_second_reader(map);
			return postern::drain(object_->maps().ring_buffer_fd(map), map);
		});
		for (const Bytes &record : records) {
			const Napi::HandleScope scope(env);
			on_event.Call({buffer(env, record)});
		}
		return Napi::Number::New(env, static_cast<double>(records.size()));
	}

	void close(const Napi::CallbackInfo &)
	{
		for (const auto &[name, subscription] : subscriptions_)
			subscription->abandon();
		subscriptions_.clear();
		object_->close();
	}

	// Two consumers of one ring buffer would move the same read position.
	void refuse_second_reader(const std::string &map)
	{
		if (subscriptions_.count(map))
			throw postern::Failure(EBUSY, "read " + map, "it has a reader already");
	}

	std::unique_ptr<postern::Object> object_;
	std::map<std::string, std::shared_ptr<Subscription>> subscriptions_;
};

Napi::Value load(const Napi::CallbackInfo &info)
{
	return instance(info.Env()).object_class.New({info[0], info[1], info[2], info[3]});
}

Napi::Value open_maps(const Napi::CallbackInfo &info)
{
	return instance(info.Env()).object_class.New({info[0]});
}

Napi::Value open_maps_by_id(const Napi::CallbackInfo &info)
{
	return instance(info.Env()).object_class.New({info.Env().Null(), info[0]});
}

Napi::Value layouts(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	const auto sizes = numbers(info, 1);
	return object_of(info.Env(), guarded(info.Env(), [&] { return postern::layouts_in(path, sizes); }));
}

Napi::Value links(const Napi::CallbackInfo &info)
{
	const auto found = guarded(info.Env(), [] { return postern::all_links(); });
	const Napi::Array result = Napi::Array::New(info.Env(), found.size());
	for (std::uint32_t index = 0; index < found.size(); index++)
		result.Set(index, object_of(info.Env(), found[index]));
	return result;
}

Napi::Value program(const Napi::CallbackInfo &info)
{
	const std::uint32_t id = number(info, 0);
	const auto found = guarded(info.Env(), [&] { return postern::program_by_id(id); });
	return found ? object_of(info.Env(), *found) : info.Env().Null();
}

Napi::Value pinned_program(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	return object_of(info.Env(), guarded(info.Env(), [&] {
				 return postern::program_info(postern::open_pin(path, postern::pinned_program).get());
			 }));
}

Napi::Value lock_folder(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	return Napi::Number::New(info.Env(), guarded(info.Env(), [&] { return postern::lock_folder(path).release(); }));
}

Napi::Value cgroup_id(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	return Napi::BigInt::New(info.Env(), guarded(info.Env(), [&] { return postern::cgroup_id(path); }));
}

Napi::Value netns_cookie(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	return Napi::BigInt::New(info.Env(), guarded(info.Env(), [&] { return postern::netns_cookie(path); }));
}

Napi::Value probe(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	const Napi::Object result = Napi::Object::New(env);
	for (const auto &[name, refusal] : guarded(env, [] { return postern::probe(); })) {
		if (refusal.empty())
			result.Set(name, env.Null());
		else
			result.Set(name, refusal);
	}
	return result;
}

Napi::Value member_offsets(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	if (!info[0].IsArray())
		throw Napi::TypeError::New(env, "argument 0 must be an array of strings");
	const Napi::Array names = info[0].As<Napi::Array>();
	std::vector<std::string> members;
	for (std::uint32_t i = 0; i < names.Length(); i++) {
		const Napi::Value name = names[i];
		if (!name.IsString())
			throw Napi::TypeError::New(env, "argument 0 must be an array of strings");
		members.push_back(name.As<Napi::String>());
	}
	const std::vector<std::int64_t> offsets = guarded(env, [&] { return postern::member_offsets(members); });
	const Napi::Array result = Napi::Array::New(env, offsets.size());
	for (std::uint32_t i = 0; i < offsets.size(); i++) {
		if (offsets[i] < 0)
			result.Set(i, env.Null());
		else
			result.Set(i, static_cast<double>(offsets[i]));
	}
	return result;
}

postern::Endpoint endpoint(const Napi::CallbackInfo &info, std::size_t index)
{
	const View address = bytes(info, index);
	postern::Endpoint result{};
	if (address.size != sizeof(result.address))
		throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must have 16 bytes");
	std::copy(address.data, address.data + address.size, result.address);
	result.port = static_cast<std::uint16_t>(number(info, index + 1, 65535.0));
	return result;
}

Napi::Value destroy_tcp(const Napi::CallbackInfo &info)
{
	const std::string netns = text(info, 0);
	const postern::Endpoint local = endpoint(info, 1);
	const postern::Endpoint remote = endpoint(info, 3);
	bool lossless = false;
	const std::uint64_t cookie = info[5].IsBigInt() ? info[5].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
	if (!lossless)
		throw Napi::TypeError::New(info.Env(), "argument 5 must be a bigint of 64 bits");
	return Napi::Boolean::New(info.Env(),
				  guarded(info.Env(), [&] { return postern::destroy_tcp(netns, local, remote, cookie); }));
}

Napi::Value namespace_number(const Napi::CallbackInfo &info)
{
	const std::string path = text(info, 0);
	return Napi::Number::New(info.Env(), guarded(info.Env(), [&] { return postern::namespace_number(path); }));
}

Napi::Value own_namespace_number(const Napi::CallbackInfo &info)
{
	const auto number = guarded(info.Env(), [] { return postern::own_namespace_number(); });
	return number ? Napi::Number::New(info.Env(), *number) : info.Env().Null();
}

Napi::Value interfaces(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	const auto of = nsid(info, 0);
	const std::vector<postern::Interface> found = guarded(env, [&] { return postern::interfaces(of); });
	const Napi::Array result = Napi::Array::New(env, found.size());
	std::uint32_t at = 0;
	for (const postern::Interface &one : found) {
		const Napi::Object entry = Napi::Object::New(env);
		entry.Set("ifindex", one.ifindex);
		entry.Set("name", one.name);
		entry.Set("kind", one.kind);
		entry.Set("hardware", one.hardware);
		entry.Set("link", one.link ? Napi::Number::New(env, *one.link) : env.Null());
		entry.Set("linkNsid", one.link_nsid ? Napi::Number::New(env, *one.link_nsid) : env.Null());
		entry.Set("mac", buffer(env, one.mac));
		result.Set(at++, entry);
	}
	return result;
}

Napi::Value interface_addresses(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	const auto of = nsid(info, 0);
	const std::vector<postern::InterfaceAddress> found = guarded(env, [&] { return postern::interface_addresses(of); });
	const Napi::Array result = Napi::Array::New(env, found.size());
	std::uint32_t at = 0;
	for (const postern::InterfaceAddress &one : found) {
		const Napi::Object entry = Napi::Object::New(env);
		entry.Set("ifindex", one.ifindex);
		entry.Set("address", Napi::Buffer<std::uint8_t>::Copy(env, one.address, sizeof(one.address)));
		result.Set(at++, entry);
	}
	return result;
}

Napi::Value frames_received(const Napi::CallbackInfo &info)
{
	const std::uint32_t ifindex = number(info, 0);
	return Napi::Number::New(info.Env(),
				 static_cast<double>(guarded(info.Env(), [&] { return postern::frames_received(ifindex); })));
}

// watchInterfaces(onChange) -> () => void, which ends it
Napi::Value watch_interfaces(const Napi::CallbackInfo &info)
{
	const Napi::Function on_change = callback(info, 0);
	const auto subscription = guarded(info.Env(), [&] { return InterfaceSubscription::start(info.Env(), on_change); });
	return Napi::Function::New(info.Env(), [subscription](const Napi::CallbackInfo &) { subscription->stop(); });
}

Napi::Value tcx_chain(const Napi::CallbackInfo &info)
{
	const std::uint32_t ifindex = number(info, 0);
	const postern::Side at = side(info, 1);
	const std::vector<std::uint32_t> programs = guarded(info.Env(), [&] { return postern::tcx_chain(ifindex, at); });
	const Napi::Array result = Napi::Array::New(info.Env(), programs.size());
	for (std::uint32_t index = 0; index < programs.size(); index++)
		result.Set(index, programs[index]);
	return result;
}

Napi::Value clsact_program(const Napi::CallbackInfo &info)
{
	const std::uint32_t ifindex = number(info, 0);
	const postern::Side at = side(info, 1);
	const auto program = guarded(info.Env(), [&] { return postern::clsact_program(ifindex, at); });
	return program ? Napi::Number::New(info.Env(), *program) : info.Env().Null();
}

Napi::Value detach_clsact(const Napi::CallbackInfo &info)
{
	const std::uint32_t ifindex = number(info, 0);
	const postern::Side at = side(info, 1);
	return Napi::Boolean::New(info.Env(), guarded(info.Env(), [&] { return postern::detach_clsact(ifindex, at); }));
}

Napi::Value remove_empty_clsact(const Napi::CallbackInfo &info)
{
	const std::uint32_t ifindex = number(info, 0);
	return Napi::Boolean::New(info.Env(), guarded(info.Env(), [&] { return postern::remove_empty_clsact(ifindex); }));
}

Napi::Value keep_capabilities(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	if (!info[0].IsBigInt())
		throw Napi::TypeError::New(env, "argument 0 must be a bigint");
	bool lossless = false;
	const std::uint64_t kept = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
	if (!lossless)
		throw Napi::TypeError::New(env, "argument 0 must have 64 bits at most");
	return Napi::BigInt::New(env, guarded(env, [&] { return postern::keep_capabilities(kept); }));
}

void filter_system_calls(const Napi::CallbackInfo &info)
{
	guarded(info.Env(), [] { postern::filter_system_calls(); });
}

// open(KernelError) -> Native
Napi::Value open(const Napi::CallbackInfo &info)
{
	const Napi::Env env = info.Env();
	instance(env).error_class = Napi::Persistent(callback(info, 0));
	instance(env).object_class = Napi::Persistent(NativeObject::define(env));
	const Napi::Object native = Napi::Object::New(env);
	native.Set("load", Napi::Function::New<load>(env, "load"));
	native.Set("openMaps", Napi::Function::New<open_maps>(env, "openMaps"));
	native.Set("openMapsById", Napi::Function::New<open_maps_by_id>(env, "openMapsById"));
	native.Set("layouts", Napi::Function::New<layouts>(env, "layouts"));
	native.Set("links", Napi::Function::New<links>(env, "links"));
	native.Set("program", Napi::Function::New<program>(env, "program"));
	native.Set("pinnedProgram", Napi::Function::New<pinned_program>(env, "pinnedProgram"));
	native.Set("lockFolder", Napi::Function::New<lock_folder>(env, "lockFolder"));
	native.Set("cgroupId", Napi::Function::New<cgroup_id>(env, "cgroupId"));
	native.Set("netnsCookie", Napi::Function::New<netns_cookie>(env, "netnsCookie"));
	native.Set("memberOffsets", Napi::Function::New<member_offsets>(env, "memberOffsets"));
	native.Set("probe", Napi::Function::New<probe>(env, "probe"));
	native.Set("destroyTcp", Napi::Function::New<destroy_tcp>(env, "destroyTcp"));
	native.Set("namespaceNumber", Napi::Function::New<namespace_number>(env, "namespaceNumber"));
	native.Set("ownNamespaceNumber", Napi::Function::New<own_namespace_number>(env, "ownNamespaceNumber"));
	native.Set("interfaces", Napi::Function::New<interfaces>(env, "interfaces"));
	native.Set("interfaceAddresses", Napi::Function::New<interface_addresses>(env, "interfaceAddresses"));
	native.Set("framesReceived", Napi::Function::New<frames_received>(env, "framesReceived"));
	native.Set("watchInterfaces", Napi::Function::New<watch_interfaces>(env, "watchInterfaces"));
	native.Set("tcxChain", Napi::Function::New<tcx_chain>(env, "tcxChain"));
	native.Set("clsactProgram", Napi::Function::New<clsact_program>(env, "clsactProgram"));
	native.Set("detachClsact", Napi::Function::New<detach_clsact>(env, "detachClsact"));
	native.Set("keepCapabilities", Napi::Function::New<keep_capabilities>(env, "keepCapabilities"));
	native.Set("filterSystemCalls", Napi::Function::New<filter_system_calls>(env, "filterSystemCalls"));
	native.Set("removeEmptyClsact", Napi::Function::New<remove_empty_clsact>(env, "removeEmptyClsact"));
	return native;
}

Napi::Object init(Napi::Env env, Napi::Object exports)
{
	env.SetInstanceData(new Instance());
	exports.Set("open", Napi::Function::New<open>(env, "open"));
	return exports;
}

} // namespace

NODE_API_MODULE(postern, init)
