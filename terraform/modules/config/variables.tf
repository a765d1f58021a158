variable "stores" {
  description = "Stores by name, as the outputs `stores` of the other modules tell them for one role: url, credentials, files."
  type = map(object({
    url         = string
    credentials = optional(map(string))
    files       = optional(map(string), {})
  }))
  validation {
    condition     = length(var.stores) > 0
    error_message = "A repository lies in at least one store."
  }
}

variable "write_quorum" {
  description = "How many stores must hold a snapshot before a backup counts as done. Null: all but one, at least 1."
  type        = number
  default     = null
}

variable "prefer" {
  description = "Stores to read from first, in this order: the nearest or the cheapest."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for name in var.prefer : contains(keys(var.stores), name)])
    error_message = "Only stores of this repository can be preferred."
  }
}

variable "host" {
  description = "The host name to record: the containers of a scheduled job have a new name in each run."
  type        = string
  default     = null
}

variable "jobs" {
  description = "What is backed up, by the job's name: paths and what to leave out, or what a command prints (under the name of filename). every: how often it is meant to run, as \"1d\", for the alerts. ping: an address that is told of each run."
  type = map(object({
    paths    = optional(list(string))
    command  = optional(list(string))
    filename = optional(string)
    exclude  = optional(list(string), [])
    tags     = optional(list(string), [])
    every    = optional(string)
    ping     = optional(string)
  }))
  default = {}
  validation {
    condition     = alltrue([for job in values(var.jobs) : (job.paths == null) != (job.command == null)])
    error_message = "A job has either paths or a command."
  }
}

variable "watch" {
  description = "What lets somebody watch the runs: push, the address of a Pushgateway; ping, an address that is told of each run (/start, then nothing or /EXIT_CODE); log_format, text or json."
  type = object({
    push       = optional(string)
    ping       = optional(string)
    log_format = optional(string)
  })
  default = {}
}

variable "retention" {
  description = "Which snapshots are kept: counts by keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly. Empty: nothing is ever forgotten."
  type        = map(number)
  default     = { keep_daily = 14, keep_weekly = 8, keep_monthly = 12 }
  validation {
    condition     = alltrue([for rule in keys(var.retention) : contains(["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"], rule)])
    error_message = "The rules are keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly and keep_yearly."
  }
}

variable "verify_within" {
  description = "Within how many days `lifecycle` reads every pack once; 0 reads nothing. Reading costs traffic."
  type        = number
  default     = 30
}
