variable "name" {
  description = "What the names of everything that is made begin with."
  type        = string
  default     = "holdfast"
}

variable "prefix" {
  description = "Folder of the repository in each bucket, without slashes at its ends; empty for whole buckets."
  type        = string
  default     = ""
}

variable "aws" {
  description = "The store at AWS; its fields are those of modules/aws. token_issuer: the account's own issuer of tokens, if the job runs here and writes elsewhere. Null: none."
  type = object({
    account_id         = string
    region             = string
    bucket             = string
    create_bucket      = optional(bool, true)
    create_kms_key     = optional(bool, false)
    kms_key_arn        = optional(string)
    object_lock        = optional(object({ mode = string, days = number }))
    oidc_provider_arns = optional(map(string), {})
    principals         = optional(map(list(string)), {})
    pods               = optional(map(list(object({ cluster = string, namespace = string, service_account = string }))), {})
    token_issuer       = optional(string)
  })
  default = null
}

variable "gcp" {
  description = "The store at Google Cloud; its fields are those of modules/gcp. Null: none."
  type = object({
    project                     = string
    location                    = string
    bucket                      = string
    create_bucket               = optional(bool, true)
    create_kms_key              = optional(bool, false)
    kms_key                     = optional(string)
    undo                        = optional(string, "versions")
    retention_days              = optional(number, 30)
    retention_locked            = optional(bool, false)
    principals                  = optional(map(list(string)), {})
    kubernetes_service_accounts = optional(map(list(string)), {})
  })
  default = null
}

variable "azure" {
  description = "The store at Azure; its fields are those of modules/azure. token_application: id URI of the application that tokens for other clouds are made out to, if the job runs here and writes elsewhere. Null: none."
  type = object({
    tenant_id           = string
    subscription_id     = string
    resource_group      = string
    location            = string
    account             = string
    container           = optional(string, "holdfast")
    create_account      = optional(bool, true)
    replication         = optional(string, "ZRS")
    kms_key_id          = optional(string)
    kms_identity_id     = optional(string)
    immutability_days   = optional(number, 0)
    immutability_locked = optional(bool, false)
    principals          = optional(map(list(string)), {})
    token_application   = optional(string)
  })
  default = null
}

variable "old_versions_days" {
  description = "How long deleted objects are kept for a copy of an earlier state, which costs their storage."
  type        = number
  default     = 30
}

variable "write_quorum" {
  description = "How many stores must hold a snapshot before a backup counts as done. Null: all but one, at least 1."
  type        = number
  default     = null
}

variable "prefer" {
  description = "Stores to read from first, in this order: some of aws, gcp, azure."
  type        = list(string)
  default     = []
}

variable "host" {
  description = "The host name to record: containers have a new name in each run."
  type        = string
  default     = "scheduled"
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
  description = "Which snapshots are kept, as in modules/config."
  type        = map(number)
  default     = { keep_daily = 14, keep_weekly = 8, keep_monthly = 12 }
}

variable "verify_within" {
  description = "Within how many days `lifecycle` reads every pack once; 0 reads nothing. Reading costs traffic."
  type        = number
  default     = 30
}

variable "schedule_aws" {
  description = "The scheduled job as a task of Fargate; its fields are those of `job` in modules/aws. Null: none there."
  type = object({
    image              = string
    password_secret    = string
    subnets            = list(string)
    security_groups    = list(string)
    assign_public_ip   = optional(bool, false)
    run_schedule       = optional(string, "cron(17 2 * * ? *)")
    lifecycle_schedule = optional(string, "cron(47 4 ? * SUN *)")
    timezone           = optional(string, "Etc/UTC")
    enabled            = optional(bool, true)
    cpu                = optional(number, 1024)
    memory             = optional(number, 2048)
    disk_gib           = optional(number, 21)
    tools_image        = optional(string, "public.ecr.aws/aws-cli/aws-cli:latest")
    volumes = optional(map(object({
      file_system_id  = string
      access_point_id = optional(string)
      path            = string
    })), {})
    log_days = optional(number, 90)
  })
  default = null
}

variable "schedule_gcp" {
  description = "The scheduled job at Cloud Run; its fields are those of `job` in modules/gcp. Null: none there."
  type = object({
    image              = string
    password_secret    = string
    region             = string
    run_schedule       = optional(string, "17 2 * * *")
    lifecycle_schedule = optional(string, "47 4 * * 0")
    timezone           = optional(string, "Etc/UTC")
    enabled            = optional(bool, true)
    cpu                = optional(string, "1")
    memory             = optional(string, "2Gi")
    timeout            = optional(string, "86400s")
    volumes = optional(map(object({
      server = string
      export = string
      path   = string
    })), {})
    network    = optional(string)
    subnetwork = optional(string)
  })
  default = null
}

variable "schedule_azure" {
  description = "The scheduled job at Container Apps; its fields are those of `job` in modules/azure. Null: none there."
  type = object({
    image              = string
    password_secret    = string
    environment_id     = string
    run_schedule       = optional(string, "17 2 * * *")
    lifecycle_schedule = optional(string, "47 4 * * 0")
    cpu                = optional(number, 1)
    memory             = optional(string, "2Gi")
    timeout_seconds    = optional(number, 79200)
    tools_image        = optional(string, "curlimages/curl:latest")
    volumes = optional(map(object({
      storage_name = string
      path         = string
    })), {})
  })
  default = null
}

variable "github" {
  description = "A workflow of GitHub that may take a role at every store without a key: owner and repository by name and by id, the environment that it runs in, and the role. Its tokens lie in the folder `tokens` beside the configuration, one file for each store. Null: none."
  type = object({
    owner         = string
    owner_id      = string
    repository    = string
    repository_id = string
    environment   = string
    role          = optional(string, "writer")
  })
  default = null
  validation {
    condition     = var.github == null || try(can(regex("^[0-9]+$", var.github.owner_id)) && can(regex("^[0-9]+$", var.github.repository_id)), false)
    error_message = "The ids of owner and repository are numbers: a name can be taken over by somebody else, an id cannot."
  }
}

variable "federation" {
  description = "Others that may take a role at every store without a key, such as service accounts of a cluster: issuer, exact subjects, role. Without a scheduled job the configuration is theirs: their tokens lie in the folder `tokens` beside it, one file for each store."
  type = map(object({
    issuer   = string
    subjects = list(string)
    role     = optional(string, "writer")
  }))
  default = {}
}

variable "tags" {
  description = "Tags of everything that can have some."
  type        = map(string)
  default     = {}
}
