// An NVRTC for machines without a GPU: libnvrtc.so as far as this project calls it. It compiles a CUDA text by the C++
// compiler ($CXX, or g++; GCC's options) with primitives_on_cpu.h in front; the "cubin" is a shared object that
// driver.cpp loads.
//
// Built with -DSOURCE_DIR="...", the folder of these headers. With CUDA_ON_CPU_SANITIZE=address, kernels are built with
// AddressSanitizer; the process must then have been started with it (LD_PRELOAD of libasan.so).

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

extern char **environ;

typedef int nvrtcResult;
enum {
    NVRTC_SUCCESS = 0,
    NVRTC_ERROR_INVALID_INPUT = 3,
    NVRTC_ERROR_INVALID_OPTION = 5,
    NVRTC_ERROR_COMPILATION = 6,
    NVRTC_ERROR_INTERNAL_ERROR = 11,
};

struct Program { std::string text, name, log, object; };

static std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

static void write_file(const std::string &path, const std::string &text) {
    std::ofstream(path, std::ios::binary) << text;
}

// Runs the C++ compiler in `folder`; what it says is added to `log`.
static bool run_compiler(const std::string &folder, std::vector<std::string> options, std::string &log) {
    std::vector<std::string> words;
    const char *compiler = getenv("CXX");
    std::istringstream split(compiler && *compiler ? compiler : "g++");  // perhaps "ccache g++"
    for (std::string word; split >> word;) words.push_back(word);
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char *> arguments, environment;
    for (std::string &word : words) arguments.push_back(&word[0]);
    arguments.push_back(nullptr);
    for (char **variable = environ; *variable; variable++)  // AddressSanitizer is for the kernels, not for the compiler
        if (strncmp(*variable, "LD_PRELOAD=", 11)) environment.push_back(*variable);
    environment.push_back(nullptr);
    const std::string output = folder + "/log";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t child;
    const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environment.data());
    posix_spawn_file_actions_destroy(&actions);
    if (error) {
        log += std::string(arguments[0]) + ": " + strerror(error) + "; name a C++ compiler in CXX\n";
        return false;
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    log += read_file(output);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool in_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

// Where `word` next stands in text as a whole word.
static size_t find_word(const std::string &text, const std::string &word, size_t at) {
    while ((at = text.find(word, at)) != std::string::npos) {
        if ((!at || !in_name(text[at - 1])) && !in_name(text[at + word.size()])) break;
        at += word.size();
    }
    return at;
}

// The word that ends before `end`, spaces apart.
static std::string word_before(const std::string &text, size_t end) {
    while (end && isspace((unsigned char)text[end - 1])) end--;
    size_t start = end;
    while (start && in_name(text[start - 1])) start--;
    return text.substr(start, end - start);
}

// The kernels of a preprocessed text by name, each with what stands in its __launch_bounds__. CUDA's words become
// spaces.
static std::map<std::string, std::string> take_kernels(std::string &text) {
    const std::string word = "__global__", bounds = "__launch_bounds__";
    std::map<std::string, std::string> kernels;
    auto blank = [&](size_t start, size_t end) { text.replace(start, end - start, end - start, ' '); };
    for (size_t at = 0; (at = find_word(text, word, at)) != std::string::npos;) {
        blank(at, at + word.size());
        size_t open = text.find('(', at);
        std::string limits = "1024";
        if (word_before(text, open) == bounds) {
            size_t close = open + 1;
            for (int depth = 1; depth && close < text.size(); close++)
                depth += (text[close] == '(') - (text[close] == ')');
            limits = text.substr(open + 1, close - open - 2);
            blank(find_word(text, bounds, at), close);
            open = text.find('(', close);
        }
        kernels[word_before(text, open)] = limits;
    }
    return kernels;
}

// `extern __shared__` is a block's memory, and __shared__ becomes spaces. Without extern it would be a thread's own
// array.
static bool take_shared(std::string &text, std::string &log) {
    const std::string word = "__shared__";
    for (size_t at = 0; (at = find_word(text, word, at)) != std::string::npos;) {
        if (word_before(text, at) != "extern") {
            log += "error: __shared__ without extern: " + text.substr(at, text.find(';', at) - at) + "\n";
            return false;
        }
        text.replace(at, word.size(), word.size(), ' ');
    }
    return true;
}

// `NAME=VALUE` of an option -D as a line of the text: our headers stand before it and use such names as T themselves.
static std::string define(std::string macro) {
    const size_t equals = macro.find('=');
    if (equals == std::string::npos) macro += " 1";
    else macro[equals] = ' ';
    return "#define " + macro + "\n";
}

// In three steps: the preprocessor, so that macros may stand anywhere; an entry added for each kernel; the compiler.
static nvrtcResult compile(Program &program, const std::string &macros, const std::string &folder) {
    const char *sanitize = getenv("CUDA_ON_CPU_SANITIZE");
    write_file(folder + "/program.cu", macros + "# 1 \"" + program.name + "\"\n" + program.text);
    std::vector<std::string> options = {"-E", "-x", "c++", "-std=c++17", "-DCUDA_ON_CPU", "-include",
                                        SOURCE_DIR "/primitives_on_cpu.h", folder + "/program.cu",
                                        "-o", folder + "/program.ii"};
    if (!run_compiler(folder, options, program.log)) return NVRTC_ERROR_COMPILATION;

    std::string text = read_file(folder + "/program.ii"), entries;
    if (!take_shared(text, program.log)) return NVRTC_ERROR_COMPILATION;
    for (auto &[name, limits] : take_kernels(text))
        entries += "extern \"C\" const cuda_on_cpu::Entry " + name + "__entry = cuda_on_cpu::entry<" + name + ">(" +
                   limits + ");\n";
    write_file(folder + "/program.ii", text + "\n# 1 \"entries\"\n" + entries);

    // -fno-gnu-unique: else objects share what is inline in each of them. No fused multiply-add, and no aliasing by
    // type, for kernels read numbers as vectors.
    options = {"-x", "c++-cpp-output", "-std=c++17", "-O2", "-g", "-shared", "-fPIC", "-Wno-unknown-pragmas",
               "-fno-gnu-unique", "-ffp-contract=off", "-fno-strict-aliasing",
               "-fsanitize=alignment,bounds", "-fno-sanitize-recover=all",
               "-Wl,-z,defs", "-Wl,--defsym=shared=cuda_on_cpu_shared",
               folder + "/program.ii", "-o", folder + "/program.so"};
    if (sanitize && *sanitize)
        options.push_back(std::string("-fsanitize=") + sanitize), options.push_back("-Wl,-z,nodefs");
    if (!run_compiler(folder, options, program.log)) return NVRTC_ERROR_COMPILATION;
    program.object = read_file(folder + "/program.so");
    return program.object.empty() ? NVRTC_ERROR_INTERNAL_ERROR : NVRTC_SUCCESS;
}

extern "C" {

nvrtcResult nvrtcVersion(int *major, int *minor) { return *major = 12, *minor = 8, NVRTC_SUCCESS; }
const char *nvrtcGetErrorString(nvrtcResult error) {
    switch (error) {
        case NVRTC_SUCCESS: return "NVRTC_SUCCESS";
        case NVRTC_ERROR_INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
        case NVRTC_ERROR_INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
        case NVRTC_ERROR_COMPILATION: return "NVRTC_ERROR_COMPILATION";
        default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}
nvrtcResult nvrtcCreateProgram(Program **answer, const char *text, const char *name, int headers, const char *const *,
                               const char *const *) {
    if (headers) return NVRTC_ERROR_INVALID_INPUT;  // a program is one text
    *answer = new Program{text, name ? name : "default_program", "", ""};
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcDestroyProgram(Program **program) {
    delete *program;
    return *program = nullptr, NVRTC_SUCCESS;
}
nvrtcResult nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    std::string macros;
    for (int i = 0; i < count; i++)  // the others are for a GPU
        if (!strncmp(options[i], "-D", 2)) {
            macros += define(options[i][2] || i + 1 == count ? options[i] + 2 : options[++i]);
        } else if (!strncmp(options[i], "--define-macro=", 15)) {
            macros += define(options[i] + 15);
        } else if (options[i][0] != '-') {
            return NVRTC_ERROR_INVALID_OPTION;
        }
    if (macros.find("#define T ") != std::string::npos) {  // the one short name that also the real NVRTC refuses
        program->log += "error: option -DT: a header of NVRTC's own uses T; begin the text with a #define T instead\n";
        return NVRTC_ERROR_COMPILATION;
    }
    const char *temporary = getenv("TMPDIR");
    std::string folder = std::string(temporary && *temporary ? temporary : "/tmp") + "/cuda_on_cpu_XXXXXX";
    if (!mkdtemp(&folder[0])) {
        program->log += folder + ": " + strerror(errno) + "\n";
        return NVRTC_ERROR_INTERNAL_ERROR;
    }
    const nvrtcResult result = compile(*program, macros, folder);
    for (const char *file : {"/log", "/program.cu", "/program.ii", "/program.so"}) unlink((folder + file).c_str());
    rmdir(folder.c_str());
    return result;
}
nvrtcResult nvrtcGetCUBINSize(Program *program, size_t *size) { return *size = program->object.size(), NVRTC_SUCCESS; }
nvrtcResult nvrtcGetCUBIN(Program *program, char *to) {
    memcpy(to, program->object.data(), program->object.size());
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetPTXSize(Program *program, size_t *size) { return nvrtcGetCUBINSize(program, size); }
nvrtcResult nvrtcGetPTX(Program *program, char *to) { return nvrtcGetCUBIN(program, to); }
nvrtcResult nvrtcGetProgramLogSize(Program *program, size_t *size) {
    return *size = program->log.size() + 1, NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetProgramLog(Program *program, char *to) {
    memcpy(to, program->log.c_str(), program->log.size() + 1);
    return NVRTC_SUCCESS;
}

}  // extern "C"
